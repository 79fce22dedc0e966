// The embeddings: the mark under the pointer, or the one that the arrow keys lead to, shows its image.
(() => {
  const { data, loaded, cut } = pictures;
  const points = JSON.parse(document.getElementById("points-data").textContent);
  const svg = document.getElementById("scatter"), spot = document.getElementById("spot");
  const select = document.getElementById("highlight-class");
  if (!points.index.length) return;
  const sheet = loaded(points.sheet);
  const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  ring.setAttribute("class", "here");
  ring.setAttribute("r", "9");
  const isShown = (n) => !select.value || points.true[n] === Number(select.value);
  let at = -1;
  const show = (n) => {
    if (n === at || n < 0) return;
    at = n;
    ring.setAttribute("cx", points.x[n]);
    ring.setAttribute("cy", points.y[n]);
    svg.append(ring);
    const label = `test image ${points.index[n]}, labelled ${data.classes[points.true[n]]}`;
    const style = points.true[n] === points.predicted[n] ? "right" : "wrong";
    spot.replaceChildren(cut(sheet, n, points.side, data.columns, points.side, label).canvas,
      make("span", {}, `Test image ${points.index[n]}`),
      make("span", {}, "true: ", named(data.classes[points.true[n]], 20)),
      make("span", {}, "predicted: ", named(data.classes[points.predicted[n]], 20, style)));
  };
  const nearest = (event) => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    const far = (n) => (points.x[n] - x) ** 2 + (points.y[n] - y) ** 2;
    return points.index.reduce((best, _, n) => (isShown(n) && (best < 0 || far(n) < far(best)) ? n : best), -1);
  };
  for (const kind of ["pointermove", "pointerdown"]) svg.addEventListener(kind, (event) => show(nearest(event)));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const order = points.index.map((_, n) => n).filter(isShown).sort((a, b) => points.x[a] - points.x[b]);
    show(order[Math.max(0, Math.min(order.length - 1, order.indexOf(at) + step))] ?? -1);
  });
  data.classes.forEach((name, k) => select.append(make("option", { value: k }, short(name, 40))));
  select.addEventListener("input", () => {
    for (const group of svg.querySelectorAll("[data-true]"))
      group.classList.toggle("dim", Boolean(select.value) && group.dataset.true !== select.value);
  });
  document.getElementById("highlight").hidden = false;
})();
