"""The commands of the workshop, for machines with and without make: ``python -m mi_utils COMMAND``."""

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence

# Libraries are imported inside the commands, so that `--help` and a mistyped name answer at once.


def say(line: str) -> None:
    print(line, flush=True)


def fetch(_: argparse.Namespace) -> int:
    from mi_utils import models

    folder = models.fetch(models.load.REGISTRY[models.load.DEFAULT].source, say=say)
    say(f"{models.load.DEFAULT} is ready in {folder}")
    return 0


def doctor(_: argparse.Namespace) -> int:
    from mi_workshop import doctor

    return doctor.report(say)


def lab(args: argparse.Namespace) -> int:
    from mi_utils import config
    from mi_workshop import exercises

    root = config.repository()
    first = exercises.learners_copy("00_start_here").relative_to(root).as_posix()
    # As the default address and not as a file: `--no-browser` prints it, and a file among the arguments comes
    # first. The repository is Lab's root, or links out of the notebook's own folder would lead nowhere.
    ours = [f"--ServerApp.root_dir={root}", f"--LabApp.default_url=/lab/tree/{first}"]
    # Not `jupyter lab`, which takes the first `jupyter-lab` on the PATH, perhaps another environment's.
    return subprocess.call([sys.executable, "-m", "jupyterlab", *ours, *args.rest], cwd=root)


def run(args: argparse.Namespace) -> int:
    from mi_workshop import readme
    from mi_workshop import run as series

    status = series.run(args.notebook, say=say, record=args.record)
    if args.record and status == 0:
        readme.update()
    return status


def test(args: argparse.Namespace) -> int:
    from mi_workshop import testing

    return testing.test(args.notebook)


def execute(args: argparse.Namespace) -> int:
    from mi_workshop import execute as executing

    return executing.execute(args.notebook, say=say)


def exercises(args: argparse.Namespace) -> int:
    from mi_workshop import exercises

    changed = exercises.write_all(check=args.check)
    for path in changed:
        say(f"{path.name} is {'stale: `make exercises` writes it' if args.check else 'written'}")
    return int(args.check and bool(changed))


def readme(args: argparse.Namespace) -> int:
    from mi_workshop import environment_file, readme

    updates = {
        "README.md": readme.update,
        "docs/": readme.update_figure,
        "environment.yml": environment_file.update,
    }
    stale = [name for name, update in updates.items() if update(check=args.check)]
    for name in stale:
        say(f"{name} is {'stale: `python -m mi_utils readme` writes it' if args.check else 'written'}")
    return int(args.check and bool(stale))


def data(args: argparse.Namespace) -> int:
    from mi_utils import data_files

    if args.name:
        command = data_files.command(args.name)
        return subprocess.call(command, shell=True, cwd=data_files.folder().parent)  # noqa: S602
    trouble = data_files.trouble()
    for line in trouble:
        say(line)
    say(f"{len(data_files.manifest())} files listed, {len(trouble)} in trouble")
    return int(bool(trouble))


def bench(_: argparse.Namespace) -> int:
    from mi_workshop import bench

    return bench.report(say)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status. Bad input is one sentence on stderr and status 2."""
    parser = argparse.ArgumentParser(prog="python -m mi_utils", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        call: Callable, words: str, *, notebook: bool = False, check: bool = False
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(call.__name__, help=words)
        command.set_defaults(call=call)
        if notebook:
            command.add_argument("notebook", nargs="?", help="a number or a name; all by default")
        if check:
            command.add_argument(
                "--check", action="store_true", help="write nothing; fail if something is stale"
            )
        return command

    add(fetch, "bring the default model into the cache")
    add(doctor, "what is installed, cached and wrong")
    add(lab, "open JupyterLab at your copy of notebook 00; further arguments go to JupyterLab")
    add(run, "run the series headless and write build/", notebook=True).add_argument(
        "--record",
        action="store_true",
        help="also write the measured minutes and memory into the README's table",
    )
    add(test, "everything CI checks", notebook=True)
    add(execute, "authors: run notebooks and store their outputs", notebook=True)
    add(exercises, "authors: write the learner edition", check=True)
    add(readme, "authors: write the README's table and environment.yml", check=True)
    add(data, "authors: check data/, or make one file again").add_argument("name", nargs="?")
    add(bench, "measure what the README says about speed")
    args, args.rest = parser.parse_known_args(arguments)
    if args.rest and args.call is not lab:
        parser.error(f"unrecognized arguments: {' '.join(args.rest)}")
    try:
        return args.call(args)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("mi_utils", "mi_workshop"):
            raise
        print(
            f"mi_utils {args.command}: {error.name} is not installed in this Python ({sys.executable}); run "
            "`make setup` and use `.venv/bin/python -m mi_utils ...`, or activate .venv",
            file=sys.stderr,
        )
        return 2
    except (ValueError, RuntimeError) as error:
        print(f"mi_utils {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
