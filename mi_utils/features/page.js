// A page of cards: shows the one that the address names, and searches the contexts of all.
//
// Text only ever goes from the page into the page as text.

"use strict";

const cards = [...document.querySelectorAll("article")];
const links = [...document.querySelectorAll("nav a")];
const list = document.querySelector("nav");
const box = document.getElementById("search");
const said = document.getElementById("said");

const densities = links.map(link => link.querySelector("small").textContent);
const lines = cards.map(card => [...card.querySelectorAll("code")].map(read));

/** Lower case, and marks of white space as the space they stand for. */
function plain(text) {
  return text.toLowerCase().replace(/[\s\u00b7\u21b5\u21e5\u240d]/g, " ");
}

/** A context: its element, its text without the number in front, and where in the text the latent fires. */
function read(code) {
  const walker = document.createTreeWalker(code, NodeFilter.SHOW_TEXT);
  const active = [];
  let text = "";
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (code.firstChild.contains(node)) continue;
    const start = text.length;
    text += plain(node.data);
    if (node.parentNode.closest("span")) active.push([start, text.length]);
  }
  return { code, text, active };
}

/** How `wanted` occurs in a context: "hit" where the latent fires on it, "near" where it does not, "". */
function occurrence({ text, active }, wanted) {
  let found = "";
  let at = wanted ? text.indexOf(wanted) : -1;
  while (at >= 0) {
    const stop = at + wanted.length;
    if (active.some(([from, to]) => from < stop && at < to)) return "hit";
    found = "near";
    at = text.indexOf(wanted, at + 1);
  }
  return found;
}

/** Marks the contexts of a card that have `wanted`, and counts them. */
function mark(contexts, wanted) {
  const count = { hit: 0, near: 0 };
  for (const context of contexts) {
    const found = occurrence(context, wanted);
    context.code.classList.toggle("hit", found === "hit");
    context.code.classList.toggle("near", found === "near");
    if (found) count[found] += 1;
  }
  return count;
}

/** The card that the address names, or the first of the list where that one is not in it. */
function show() {
  const open = [...list.children].filter(link => !link.classList.contains("none"));
  const chosen = open.find(link => link.hash === location.hash) ?? open[0];
  for (const link of links) link.classList.toggle("now", link === chosen);
  for (const card of cards) card.classList.toggle("other", !chosen || "#" + card.id !== chosen.hash);
}

function search() {
  const wanted = plain(box.value);
  const counts = lines.map(contexts => mark(contexts, wanted));
  links.forEach((link, i) => {
    const { hit, near } = counts[i];
    link.classList.toggle("none", wanted !== "" && !hit && !near);
    link.querySelector("small").textContent = wanted ? `${hit} on, ${near} near` : densities[i];
  });
  const order = links.map((_, i) => i);
  order.sort((a, b) => counts[b].hit - counts[a].hit || counts[b].near - counts[a].near || a - b);
  list.append(...order.map(i => links[i]));
  said.textContent = wanted ? summary(counts) : "";
  if (wanted && order.length && counts[order[0]].hit) {
    history.replaceState(null, "", links[order[0]].hash);
  }
  show();
}

function summary(counts) {
  const on = counts.filter(one => one.hit).length;
  const beside = counts.filter(one => !one.hit && one.near).length;
  if (on + beside === 0) return "None of the contexts shown here has it.";
  return `${on} fire on it, ${beside} more have it in their contexts.`;
}

box.addEventListener("input", search);
addEventListener("hashchange", show);
search();
