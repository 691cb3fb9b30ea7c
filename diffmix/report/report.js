"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const el = (tag, properties, ...children) => {
    const made = document.createElement(tag);
    Object.assign(made, properties || {});
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  };
  const percent = (share) => `${Math.round(1000 * share) / 10} %`;
  const className = (label) => data.classes[label] ?? `class ${label}`;

  // Theme: the system's, until the button is pressed.
  const root = document.documentElement;
  const dark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const views = [];
  const draw = () => {
    const ink = dark() ? "#cfcfcf" : "#404040", line = dark() ? "#3a3a3a" : "#e2e2e2";
    const config = {
      background: null,
      view: { stroke: null },
      axis: { labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line, titleFontWeight: "normal" },
      legend: { labelColor: ink, titleColor: ink, titleFontWeight: "normal" },
    };
    for (const old of views.splice(0)) old.finalize();
    for (const place of document.querySelectorAll("[data-chart]")) {
      const key = place.dataset.chart, spec = data.charts[key];
      const many = (spec.data?.values?.length ?? 0) > 1500;
      window.vegaEmbed(place, spec, { actions: false, logLevel: 1, renderer: many ? "canvas" : "svg", config, tooltip: { theme: dark() ? "dark" : "light" } })
        .then((result) => {
          views.push(result);
          if (key === "confusion")
            result.view.addEventListener("click", (_, item) => {
              if (item?.datum?.i !== undefined) showBehind(item.datum.i, item.datum.j);
            });
        });
    }
  };
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    if (window.vegaEmbed) draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => window.vegaEmbed && draw());

  // Gallery
  const gallery = data.gallery;
  const mixes = gallery ? gallery.mixes : [];
  const small = gallery && gallery.side > 96 ? "" : "small";
  const picture = (uri, alt) => {
    const image = el("img", { src: uri, alt, loading: "lazy", className: small });
    image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 100));
    return image;
  };
  const label = (mix) =>
    mix.s === mix.t ? className(mix.s) : `${className(mix.s)} → ${className(mix.t)}`;
  const describe = (mix) =>
    `mix ${mix.id}: ${label(mix)}, strength ${mix.strength}${mix.ok ? "" : ", rejected"}`;
  let shown = [], list = [];

  const tile = (mix, position) => {
    const button = el("button", { type: "button", className: `tile${mix.ok ? "" : " rejected"}` },
      picture(mix.image, describe(mix)),
      el("span", { textContent: label(mix) }),
      el("span", { textContent: `strength ${mix.strength}` }),
      mix.score === null ? null : el("span", { textContent: `score ${mix.score}`, className: mix.ok ? "" : "no" }),
      mix.loss === null ? null : el("span", { textContent: `loss ${mix.loss}` }));
    button.dataset.mix = mix.id;
    button.addEventListener("click", () => zoom(list, position));
    return button;
  };

  const filters = document.getElementById("filters");
  const grid = document.getElementById("grid"), more = document.getElementById("more");
  const PAGE = 60;
  const fill = () => {
    const until = Math.min(shown.length + PAGE, list.length);
    const added = list.slice(shown.length, until).map((mix, i) => tile(mix, shown.length + i));
    shown = list.slice(0, until);
    grid.append(...added);
    more.hidden = shown.length >= list.length;
    return added;
  };
  const apply = () => {
    const value = Object.fromEntries(new FormData(filters));
    const low = value.low === "" ? null : Number(value.low), high = value.high === "" ? null : Number(value.high);
    list = mixes.filter((mix) =>
      (value.source === "" || mix.s === Number(value.source)) &&
      (value.target === "" || mix.t === Number(value.target)) &&
      (value.strength === "" || mix.strength === Number(value.strength)) &&
      (value.gate === "" || mix.ok === (value.gate === "ok")) &&
      (low === null || (mix.score !== null && mix.score >= low)) &&
      (high === null || (mix.score !== null && mix.score <= high)));
    const key = value.order.replace("-", ""), sign = value.order.startsWith("-") ? -1 : 1;
    // What has no figure comes last, whichever way.
    list.sort((a, b) => (a[key] === null) - (b[key] === null) || sign * (a[key] - b[key]) || a.id - b.id);
    shown = [];
    grid.replaceChildren();
    fill();
    document.getElementById("count").textContent = `${list.length} of ${mixes.length} mixes`;
  };
  if (filters) {
    const options = (name, values, text) => {
      const select = filters.elements[name];
      for (const value of values) select.append(el("option", { value, textContent: text(value) }));
    };
    const distinct = (key) => [...new Set(mixes.map((mix) => mix[key]))].sort((a, b) => a - b);
    options("source", distinct("s"), className);
    options("target", distinct("t"), className);
    options("strength", distinct("strength"), String);
    for (const name of ["low", "high"])
      filters.elements[name].parentElement.hidden = mixes.every((mix) => mix.score === null);
    const orders = [...filters.elements.order.options];
    for (const key of ["score", "loss"])
      if (mixes.every((mix) => mix[key] === null))
        orders.filter((option) => option.value.endsWith(key)).forEach((option) => option.remove());
    if (mixes.every((mix) => mix.ok)) filters.elements.gate.parentElement.hidden = true;
    filters.addEventListener("input", apply);
    filters.addEventListener("reset", () => setTimeout(apply));
    filters.addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", () => fill()[0]?.focus());
    apply();
  }

  // One mix beside its source
  const dialog = document.getElementById("zoom");
  let opened = null;
  const zoom = (among, position) => {
    const mix = among[position];
    if (!mix) return;
    opened = { among, position };
    const source = mix.source === null ? null : gallery.sources[mix.source];
    const facts = [
      ["soft label", mix.s === mix.t ? `${className(mix.t)} ${percent(mix.label[0] + mix.label[1])}`
        : `${className(mix.t)} ${percent(mix.label[0])}, ${className(mix.s)} ${percent(mix.label[1])}`],
      ["strength", mix.strength], ["seed", mix.seed], ["prompt", mix.prompt],
      ["score", mix.score === null ? null : `${mix.score}, ${mix.ok ? "accepted" : "rejected"}`],
      ["classifier's loss", mix.loss], ["source image", mix.from || null],
    ];
    const table = el("table", {}, ...facts.filter(([, value]) => value !== null).map(([name, value]) =>
      el("tr", {}, el("th", { scope: "row", textContent: name }), el("td", { textContent: String(value) }))));
    const step = (text, to) => {
      const button = el("button", { type: "button", textContent: text, disabled: !among[to] });
      button.addEventListener("click", () => zoom(among, to));
      return button;
    };
    const close = el("button", { type: "button", textContent: "close" });
    close.addEventListener("click", () => dialog.close());
    dialog.replaceChildren(
      el("div", { className: "bar" }, el("strong", { textContent: describe(mix) }),
        el("span", {}, step("←", position - 1), " ", step("→", position + 1), " ", close)),
      el("div", { className: "pair" },
        source ? el("figure", {}, picture(source, `real image of ${className(mix.s)}`), el("figcaption", { textContent: `real: ${className(mix.s)}` })) : null,
        el("figure", {}, picture(mix.image, describe(mix)), el("figcaption", { textContent: `mix: ${label(mix)}` }))),
      table);
    if (!dialog.open) dialog.showModal();
    close.focus();
  };
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && opened) zoom(opened.among, opened.position + by);
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

  // The images behind a confusion
  const tests = gallery ? gallery.tests : [];
  const behind = document.getElementById("behind");
  const showBehind = (i, j) => {
    const real = tests.filter((test) => test.i === i && test.j === j);
    const made = mixes.filter((mix) => mix.s === i && mix.t === j);
    const what = i === j ? `${className(i)}, recognized` : `${className(i)} taken for ${className(j)}`;
    const ways = i === j ? "" : `; ${made.length} of the mixes shown here go the same way`;
    behind.textContent = `${what}: ${real.length} test image${real.length === 1 ? "" : "s"} kept for this page${ways}`;
    document.getElementById("behind-grid").replaceChildren(
      ...real.map((test) => el("div", { className: "tile" },
        picture(test.image, `test image of ${className(i)}, taken for ${className(j)}`),
        el("span", { textContent: test.id }))),
      ...made.slice(0, 24).map((mix, position) => {
        const button = tile(mix, position);
        const own = button.cloneNode(true);
        own.addEventListener("click", () => zoom(made, position));
        return own;
      }));
  };
  const cells = document.querySelector('[data-table="confusion"]');
  if (cells)
    [...cells.tBodies[0].rows].forEach((row, number) => {
      const { i, j } = data.charts.confusion.data.values[number]; // in the table's order
      const button = el("button", { type: "button", textContent: "images" });
      button.addEventListener("click", () => { showBehind(i, j); behind.scrollIntoView({ block: "center" }); });
      row.append(el("td", {}, button));
    });

  if (window.vegaEmbed) draw();
})();
