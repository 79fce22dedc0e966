(() => {
  const at = (id) => document.getElementById(id);
  const [drop, file, target, against, status, result] = ["drop", "file", "class", "against", "status", "result"].map(at);
  const maxBytes = Number(drop.dataset.maxBytes);
  let image = null;
  let asking = new AbortController(); // only the latest request counts

  const show = (found) => {
    at("seen").src = found.image;
    at("top").tBodies[0].replaceChildren(...found.top.map((row) => make("tr", {},
      make("td", {}, row.class),
      make("td", {}, make("meter", { max: 1, value: row.probability, "aria-label": row.class })),
      make("td", { class: "n" }, percent(row.probability)))));
    at("maps")?.replaceChildren(...found.maps.map((map) => make("li", {}, make("figure", {},
      ...(map.picture ? [make("img", { src: map.picture, alt: `Map at ${map.layer} for ${map.class}` })] : []),
      make("figcaption", {}, `${map.layer}, for ${map.class}${map.note ? `: ${map.note}` : ""}`)))));
  };

  const ask = async () => {
    if (!image) return;
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    status.textContent = "Classifying …";
    let found, ok = false;
    try {
      if (image.size > maxBytes) throw new Error(`more than ${maxBytes / 2 ** 20} MiB; try: a smaller copy of it`);
      const query = new URLSearchParams({ class: target?.value ?? "", against: against?.value ?? "" });
      const response = await fetch(`predict?${query}`, { method: "POST", body: image, signal });
      if (response.headers.get("content-type") !== "application/json") throw new Error(await response.text());
      [found, ok] = [await response.json(), response.ok];
    } catch (error) {
      found = { message: error instanceof TypeError ? "no answer: is daybreak still running?" : error.message };
    }
    if (signal.aborted) return;
    if (ok) show(found);
    result.hidden = !ok;
    status.textContent = ok ? `${image.name || "image"}: ${found.top[0].class}, ${percent(found.top[0].probability)}` : found.message;
    status.className = ok ? "" : "wrong";
  };

  const take = (files) => {
    if (!files.length) return;
    [image] = files;
    ask();
  };
  file.addEventListener("change", () => take(file.files));
  for (const select of [target, against]) select?.addEventListener("change", ask);
  drop.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("paste", (event) => take(event.clipboardData.files));
  addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  addEventListener("dragleave", () => drop.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files);
  });
})();
