(() => {
  // Charts: show the values under the pointer, or step through them with the arrow keys.
  for (const chart of document.querySelectorAll("svg.chart")) {
    const { x, lines } = JSON.parse(chart.dataset.chart);
    const longest = lines.reduce((a, b) => (b.points.length > a.points.length ? b : a), { points: [] }).points;
    if (!longest.length) continue;
    const reading = make("p", { class: "reading", role: "status" });
    chart.after(reading);
    const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
    cursor.setAttribute("class", "cursor");
    let at = -1;
    const show = (n) => {
      at = Math.max(0, Math.min(longest.length - 1, n));
      const [px, , label] = longest[at];
      cursor.setAttribute("x1", px); cursor.setAttribute("x2", px);
      cursor.setAttribute("y1", 14); cursor.setAttribute("y2", 210);
      chart.append(cursor);
      const near = (points) => points.reduce((a, b) => (Math.abs(b[0] - px) < Math.abs(a[0] - px) ? b : a));
      reading.textContent = `${x} ${label}: ` + lines.map((line) => `${line.name} ${near(line.points)[3]}`).join(", ");
    };
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const px = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
      show(longest.reduce((a, point, n) => (Math.abs(point[0] - px) < Math.abs(longest[a][0] - px) ? n : a), 0));
    });
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) { show(at < 0 ? 0 : at + step); event.preventDefault(); }
    });
  }

  const source = document.getElementById("images-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const sheet = new Image();
  const ready = new Promise((resolve) => { sheet.onload = resolve; sheet.src = data.sheet; });

  // Pictures are canvases, drawn from the sheet once it is decoded.
  const picture = (item, size, label, after = () => {}) => {
    const canvas = make("canvas", { class: "pixels", width: size, height: size, role: "img", "aria-label": label });
    const n = data.items.indexOf(item);
    ready.then(() => {
      const pen = canvas.getContext("2d");
      pen.imageSmoothingEnabled = false;
      const left = (n % data.columns) * data.side, top = Math.floor(n / data.columns) * data.side;
      pen.drawImage(sheet, left, top, data.side, data.side, 0, 0, size, size);
      after(pen);
    });
    return canvas;
  };

  const cellsOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stageCells = (item, which) => {
    const all = cellsOf(item.maps[which]);
    let at = 0;
    return data.stages.map(({ side }) => all.subarray(at, (at += side * side)));
  };

  const heat = (pen, cells, side, size) => {
    const small = make("canvas", { width: side, height: side });
    const pixels = new ImageData(side, side);
    cells.forEach((level, n) => {
      const colour = data.heat[Math.floor((level * (data.heat.length - 1)) / 255)];
      pixels.data.set([...colour, Math.round(0.75 * level)], 4 * n);
    });
    small.getContext("2d").putImageData(pixels, 0, 0);
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(small, 0, 0, size, size);
  };

  const frame = (pen, [left, top, right, bottom], size) => {
    const scale = size / data.net_size;
    pen.strokeStyle = "#40e0ff";
    pen.lineWidth = 3;
    pen.strokeRect(left * scale + 1, top * scale + 1, (right - left) * scale - 2, (bottom - top) * scale - 2);
  };

  const isEmpty = (cells) => Math.max(...cells) === 0;
  const note = (words) => make("span", { class: "head" }, words);

  const mapsOf = (item) => {
    const size = 168;
    const rows = [["predicted", item.top[0][0], "wrong"], ["true", item.true, "right"]];
    const grid = make("div", { class: `maps s${Math.min(6, data.stages.length)}` }, make("span"));
    data.stages.forEach(({ name }) => grid.append(note(name)));
    rows.forEach(([kind, k, style], which) => {
      grid.append(make("span", { class: `name ${style}` }, `${kind}: ${data.classes[k]}`));
      stageCells(item, which).forEach((cells, s) => {
        const { name, side } = data.stages[s];
        const label = `map for ${data.classes[k]} at ${name}`;
        grid.append(isEmpty(cells) ? note("no evidence") : picture(item, size, label, (pen) => heat(pen, cells, side, size)));
      });
    });
    grid.append(make("span", { class: "name head" }, "receptive field of the maximum (predicted)"));
    stageCells(item, 0).forEach((cells, s) => {
      const label = `receptive field at ${data.stages[s].name}`;
      grid.append(isEmpty(cells) ? note("–") : picture(item, size, label, (pen) => frame(pen, item.boxes[s], size)));
    });
    return grid;
  };

  const title = (item) => `test image ${item.index}, labelled ${data.classes[item.true]}`;
  const card = (item) => {
    const top = make("ul", { class: "top" });
    const named = item.top.some(([k]) => k === item.true) ? item.top : [...item.top, [item.true, item.p_true]];
    named.forEach(([k, p]) => top.append(make("li", k === item.true ? { class: "right" } : {}, `${percent(p)} ${data.classes[k]}`)));
    const facts = make("figcaption", {}, item.file, top);
    return make("div", { class: "strip" }, make("figure", {}, picture(item, data.side, title(item)), facts), mapsOf(item));
  };

  const CARDS = 24;  // at a time; each has about ten canvases
  const dialog = document.getElementById("detail");
  const open = (heading, items, missing = 0) => {
    const body = dialog.querySelector(".body");
    dialog.querySelector("h2").textContent = heading;
    body.replaceChildren();
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

  // The confusion matrix and the list of confused pairs open their images.
  document.addEventListener("click", (event) => {
    const cell = event.target.closest("[data-cell]");
    if (!cell) return;
    const [actual, predicted, count] = cell.dataset.cell.split(",").map(Number);
    const items = data.items.filter((i) => i.true === actual && i.top[0][0] === predicted && i.kinds.includes("mistake"));
    open(`${data.classes[actual]} taken for ${data.classes[predicted]}: ${count}`, items, count - items.length);
  });

  // The gallery and its filters.
  const PAGE = 60;
  const gallery = document.getElementById("gallery"), status = document.getElementById("shown"), more = document.getElementById("more");
  const [kind, actual, predicted, minimum] = ["kind", "true", "predicted", "confidence"].map((name) => document.getElementById(`filter-${name}`));
  for (const select of [actual, predicted])
    data.classes.forEach((name, k) => select.append(make("option", { value: k }, name)));
  let limit = PAGE;
  const tile = (item) => {
    const [k, p] = item.top[0];
    const style = k === item.true ? "right" : "wrong";
    const button = make("button", { type: "button" },
      picture(item, data.side, title(item)),
      make("span", { class: style }, `${data.classes[k]} ${percent(p)}`), make("br"), `true: ${data.classes[item.true]}`);
    button.addEventListener("click", () => open(title(item), [item]));
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
  document.getElementById("filters").hidden = false;
  refresh();
})();
