// The gallery with its filters, and the dialog with the maps of images.
(() => {
  const { data, picture, mapsOf } = pictures;
  const title = (item) => `test image ${item.index}, labelled ${data.classes[item.true]}`;
  const card = (item) => {
    const top = make("ul", { class: "top" });
    const shown = item.top.some(([k]) => k === item.true) ? item.top : [...item.top, [item.true, item.p_true]];
    shown.forEach(([k, p]) => top.append(make("li", {}, `${percent(p)} `, named(data.classes[k], 20, k === item.true ? "right" : ""))));
    const facts = make("figcaption", {}, named(item.file), top);
    return make("article", { class: "strip" }, make("figure", { class: "subject" }, picture(item, data.side, title(item)), facts), mapsOf(item));
  };

  const CARDS = 24;  // at a time; each has about ten canvases
  const dialog = document.getElementById("detail");
  const open = (heading, items, missing = 0) => {
    const body = dialog.querySelector(".body");
    dialog.querySelector("h2").replaceChildren(...heading);
    body.replaceChildren(document.querySelector(".key").cloneNode(true));
    const add = (from) => {
      body.append(...items.slice(from, from + CARDS).map(card));
      if (items.length > from + CARDS) {
        const next = make("button", { type: "button" }, `More (${items.length - from - CARDS})`);
        next.addEventListener("click", () => { next.remove(); add(from + CARDS); });
        body.append(next);
      } else if (missing > 0)
        body.append(make("p", { class: "soft" }, `${missing} less confident images are not shown; predictions.npz has all of them.`));
    };
    add(0);
    dialog.showModal();
    dialog.scrollTop = 0;
  };
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });  // a click on the backdrop

  // The confusion matrix, the list of confused pairs and the verdict open their images.
  document.addEventListener("click", (event) => {
    const cell = event.target.closest("[data-cell]");
    if (!cell) return;
    event.preventDefault();
    const [actual, predicted, count] = cell.dataset.cell.split(",").map(Number);
    const items = data.items.filter((i) => i.true === actual && i.top[0][0] === predicted && i.kinds.includes("mistake"));
    open([named(data.classes[actual]), " taken for ", named(data.classes[predicted]), `: ${count}`], items, count - items.length);
  });

  const PAGE = 60;
  const gallery = document.getElementById("gallery"), status = document.getElementById("shown"), more = document.getElementById("more");
  const [kind, actual, predicted, minimum] = ["kind", "true", "predicted", "confidence"].map((name) => document.getElementById(`filter-${name}`));
  for (const select of [actual, predicted])
    data.classes.forEach((name, k) => select.append(make("option", { value: k }, short(name, 40))));
  let limit = PAGE;
  const tile = (item) => {
    const [k, p] = item.top[0];
    const button = make("button", { type: "button" },
      picture(item, data.side, title(item)),
      make("span", {}, named(data.classes[k], 14, k === item.true ? "right" : "wrong"), ` ${percent(p)}`),
      make("span", { class: "soft" }, "true: ", named(data.classes[item.true], 14)));
    button.addEventListener("click", () => open([`Test image ${item.index}`], [item]));
    return make("li", {}, button);
  };
  const refresh = () => {
    const found = data.items.filter((i) =>
      (!kind.value || i.kinds.includes(kind.value)) && (!actual.value || i.true === Number(actual.value)) &&
      (!predicted.value || i.top[0][0] === Number(predicted.value)) && 100 * i.top[0][1] >= Number(minimum.value));
    gallery.replaceChildren(...found.slice(0, limit).map(tile));
    status.textContent = `${Math.min(limit, found.length)} of ${found.length} images`;
    more.hidden = found.length <= limit;
  };
  for (const control of [kind, actual, predicted, minimum])
    control.addEventListener("input", () => { limit = PAGE; refresh(); });
  more.addEventListener("click", () => { limit += PAGE; refresh(); });
  for (const id of ["filters", "hint"]) document.getElementById(id).hidden = false;
  refresh();
})();
