// A page of its own: what a notebook's kernel would keep is kept here.

function standIn(values) {
  const heard = new EventTarget();
  return {
    get: key => values[key],
    set: (key, value) => {
      if (JSON.stringify(values[key]) === JSON.stringify(value)) return;
      values[key] = value;
      heard.dispatchEvent(new Event(`change:${key}`));
    },
    save_changes: () => {},
    on: (event, heardIt) => heard.addEventListener(event, heardIt),
    off: (event, heardIt) => heard.removeEventListener(event, heardIt),
  };
}

const given = JSON.parse(document.getElementById("graph-data").textContent);
render({model: standIn(given), el: document.getElementById("graph")});
