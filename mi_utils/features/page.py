"""Many cards in one HTML file, with a list and a search: it loads nothing, and no script runs in it but its
own."""

import base64
import hashlib
import html
from collections.abc import Sequence

from mi_utils.features.cards import LEVELS, LINE, Look, Source, card, colours
from mi_utils.plots.style import INK, MONO, SANS


def page(source: Source, latents: Sequence[int], title: str) -> str:
    """The file that ``features.export`` writes."""
    cards, links = [], []
    for one in latents:
        cards.append(f'<article id="l{one}">{card(source, one, look=_CLASSES)}</article>')
        label = html.escape(f"{one} {source.label(one)}")
        links.append(
            f'<a href="#l{one}"><span>{label}</span><small>{source.acts.density[one]:.2%}</small></a>'
        )
    levels = "".join(f".c{level}{{{colours(level)}}}" for level in range(LEVELS))
    allowed = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    own = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    policy = f"{own}; script-src 'sha256-{allowed}'"
    about = f"{len(latents):,} of {source.acts.n_latents:,}, on {source.acts.n_tokens:,} tokens of text"
    lists = f'<nav aria-label="list">{"".join(links)}</nav><div>{"".join(cards)}</div>'
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}{levels}</style></head><body><header><h1>{html.escape(title)}</h1><p>{about}.</p>"
        '<label>Search the contexts shown <input id="search" type="search"></label> '
        '<span id="said" '
        f'role="status"></span></header><main>{lists}</main><script>{_SCRIPT}</script></body></html>'
    )


_CLASSES = Look(lambda level: f" class=c{level}", "")
_STYLE = f"""
body {{ margin: 0 auto; max-width: 1320px; padding: 12px 20px; background: #fff; color: {INK}; }}
body {{ font: 13px/1.45 {SANS}; }}
h1 {{ font-size: 20px; margin: 4px 0; overflow-wrap: anywhere; }} p {{ margin: 2px 0 8px; }}
input {{ font: inherit; width: 260px; padding: 3px 6px; }}
main {{ display: flex; gap: 20px; margin-top: 12px; align-items: flex-start; }}
main > div {{ flex: 1; min-width: 0; }}
nav {{ flex: 0 0 270px; max-height: 84vh; overflow: auto; border: 1px solid #ccc; position: sticky; top: 12px; }}
nav a {{ display: flex; gap: 8px; padding: 2px 8px; color: inherit; text-decoration: none; font: 12px/1.5 {MONO}; }}
nav a span {{ flex: 1; overflow: hidden; text-overflow: ellipsis; white-space: pre; }} nav a small {{ color: #595959; }}
nav a:hover, nav a.now {{ background: #edf8c5; }} nav a.none, article.other {{ display: none; }}
article {{ border: 1px solid #ccc; border-radius: 4px; padding: 10px 12px; margin-bottom: 12px; }}
code {{ {LINE} }} code.hit {{ outline: 2px solid #0072B2; }} code.near {{ outline: 1px dotted #0072B2; }}
@media (max-width: 800px) {{
  main {{ display: block; }}
  nav {{ max-height: 30vh; position: static; margin-bottom: 12px; }}
}}
"""

# Text only ever goes from the page into the page as text. Marks of white space are read as the space they
# stand for.
_SCRIPT = """
"use strict";
const cards = [...document.querySelectorAll("article")], links = [...document.querySelectorAll("nav a")];
const box = document.getElementById("search"), said = document.getElementById("said");
const nav = document.querySelector("nav"), notes = links.map(link => link.querySelector("small").textContent);
const plain = text => text.toLowerCase().replace(/[\\s\u00b7\u21b5\u21e5\u240d]/g, " ");
const read = code => {
  const walker = document.createTreeWalker(code, NodeFilter.SHOW_TEXT), active = [];
  let text = "";
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (code.firstChild.contains(node)) continue;
    const start = text.length;
    text += plain(node.data);
    if (node.parentNode.closest("span")) active.push([start, text.length]);
  }
  return {code, text, active};
};
const lines = cards.map(card => [...card.querySelectorAll("code")].map(read));
const show = () => {
  const wanted = location.hash.slice(1), open = links.filter(link => !link.classList.contains("none"));
  let card = cards.find(one => one.id === wanted);
  if (!card || !open.some(link => link.hash === "#" + card.id))
    card = open.length ? cards[links.indexOf([...nav.children].find(link => open.includes(link)))] : null;
  cards.forEach(one => one.classList.toggle("other", one !== card));
  links.forEach(link => link.classList.toggle("now", !!card && link.hash === "#" + card.id));
};
const search = () => {
  const wanted = plain(box.value);
  const counts = lines.map(of => {
    let hits = 0, near = 0;
    for (const {code, text, active} of of) {
      let found = false, hit = false;
      for (let at = wanted ? text.indexOf(wanted) : -1; at >= 0; at = text.indexOf(wanted, at + 1)) {
        found = true;
        hit ||= active.some(([start, stop]) => start < at + wanted.length && at < stop);
      }
      code.classList.toggle("hit", hit);
      code.classList.toggle("near", found && !hit);
      hits += hit;
      near += found && !hit;
    }
    return {hits, near};
  });
  links.forEach((link, i) => {
    link.classList.toggle("none", !!wanted && !counts[i].hits && !counts[i].near);
    link.querySelector("small").textContent = wanted ? counts[i].hits + " on, " + counts[i].near + " near" : notes[i];
  });
  const order = links.map((_, i) => i);
  order.sort((a, b) => counts[b].hits - counts[a].hits || counts[b].near - counts[a].near || a - b);
  nav.append(...order.map(i => links[i]));
  const on = counts.filter(one => one.hits).length, beside = counts.filter(one => !one.hits && one.near).length;
  said.textContent = !wanted ? "" : on + beside ? on + " fire on it, " + beside + " more have it in their contexts." :
    "None of the contexts shown here has it.";
  if (wanted && order.length && counts[order[0]].hits) history.replaceState(null, "", links[order[0]].hash);
  show();
};
box.addEventListener("input", search);
addEventListener("hashchange", show);
search();
"""
