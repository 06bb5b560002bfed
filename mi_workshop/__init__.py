"""Tools around the notebooks: run, store outputs, write the learner edition, build pages and tables."""
