"use strict";
/* The page's own script: draws what is in view, fills number tables when opened, and keeps its state in the address. */
(() => {
  const byId = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const initial = JSON.parse(byId("state").textContent);
  const state = { at: "", left: initial.left, right: initial.right, switches: {}, circuits: {}, choices: {} };
  const content = (chart) => JSON.parse(chart.querySelector(":scope > script").textContent);

  /* Charts */
  const drawers = {
    plot: (canvas, data) => {
      library("plotly");
      Plotly.newPlot(canvas, data.plot.data, data.plot.layout, data.plot.config);
    },
    attention: (canvas, data) => circuitsvis(canvas, "AttentionHeads", data.widget),
    tokens: (canvas, data) => circuitsvis(canvas, "ColoredTokens", data.widget),
    switches: (canvas, data, chart) => switches(canvas, data.widget, chart.id),
    circuit: (canvas, data, chart) => circuit(canvas, chart, (library) => library.one(data.widget)),
    difference: (canvas, data, chart) => circuit(canvas, chart, (library) => library.minus(...pairOf(chart).map(widgetOf), [state.left, state.right])),
  };
  /* Kept inert until first needed, so that the page opens sooner; the policy names their hashes. */
  const started = new Set();
  function library(name) {
    if (started.has(name)) return;
    started.add(name);
    document.head.append(make("script", {}, byId(name).textContent));
  }
  function circuitsvis(canvas, component, properties) {
    library("circuitsvis");
    const place = make("div", { id: `${canvas.parentElement.id}-widget` });
    canvas.append(place);
    window.CircuitsVis.render(place.id, window.CircuitsVis[component], properties);
  }
  function draw(chart) {
    if (chart.dataset.drawn) return;
    chart.dataset.drawn = "yes";
    const canvas = chart.querySelector(".canvas");
    try {
      drawers[chart.dataset.kind](canvas, content(chart), chart);
    } catch (error) {
      chart.dataset.drawn = "failed";
      canvas.append(make("p", { class: "alert" }, `This figure could not be drawn: ${error.message}`));
    }
  }
  const watcher = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
      watcher.unobserve(entry.target);
      draw(entry.target);
    }),
    { rootMargin: "250px" },
  );

  /* The numbers under a chart: given as rows, or read from the widget's own data */
  const shown = (value) => String(Number(value.toPrecision(3)));
  const off = (mask, heads) => heads.filter((_, h) => (mask >> h) & 1).join(", ") || "none";
  const size = (mask) => mask.toString(2).replaceAll("0", "").length;
  const cell = (value) => (value === null ? "–" : shown(value));
  const rowsOf = {
    circuit: ({ nodes, edges: { names, effect, low, high, kept, scores } }) => {
      const methods = Object.values(scores);
      return [
        ...nodes.map((node) => [node.name, cell(node.effect), cell(node.low), cell(node.high), "–", ...methods.map(() => "–")]),
        ...names.map((name, i) => [name, cell(effect[i]), cell(low[i]), cell(high[i]), kept[i] ? "yes" : "no", ...methods.map((of) => cell(of[i]))]),
      ];
    },
    attention: ({ tokens, attention, attentionHeadNames }) => attention.flatMap((pattern, h) =>
      pattern.map((row, i) => [attentionHeadNames[h], `${i}: ${tokens[i]}`, ...row.map(shown)])),
    switches: ({ heads, examples }) => examples.flatMap(({ tokens, target, answers }) =>
      Object.keys(answers).map(Number).sort((a, b) => size(a) - size(b) || a - b).map((mask) => {
        const [symbol, probability] = answers[mask][0];
        return [tokens.join(" "), off(mask, heads), symbol, probability === null ? "–" : shown(probability), target];
      })),
  };
  function fill(details) {
    const place = details.querySelector(".scroll");
    if (place.firstChild) return;
    const chart = details.closest(".chart"), differs = chart && chart.dataset.kind === "difference";
    const { table, widget } = differs ? { table: differences(chart) } : JSON.parse(details.nextElementSibling.textContent);
    const { columns, numeric, title } = table;
    const rows = table.rows || rowsOf[chart.dataset.kind](widget);
    const head = make("tr");
    columns.forEach((name, i) => head.append(make("th", { scope: "col", class: numeric[i] ? "n" : "" }, name || " ")));
    const body = make("tbody");
    for (const row of rows) {
      const line = make("tr");
      row.forEach((cell, i) => line.append(make("td", { class: numeric[i] ? "n" : "" }, cell)));
      body.append(line);
    }
    place.append(make("table", {}, make("caption", {}, title), make("thead", {}, head), body));
  }

  /* Heads switched off, from precomputed answers */
  function switches(canvas, data, id) {
    const choice = make("select");
    data.examples.forEach((example, i) =>
      choice.append(make("option", { value: i }, `${i + 1}: ${example.tokens.join(" ")}`)));
    const label = make("label", {}, "Example ");
    label.append(choice);
    const buttons = data.heads.map((head, h) => {
      const button = make("button", { type: "button", "aria-pressed": "false" }, head);
      button.addEventListener("click", () => show(current().example, current().mask ^ (1 << h), true));
      return button;
    });
    const reset = make("button", { type: "button" }, "All on");
    reset.addEventListener("click", () => show(current().example, 0, true));
    const tokens = make("div", { class: "tokens" });
    const says = make("p", { class: "says-changed", role: "status" });
    const answers = make("div", { class: "answers" });
    const group = make("div", { class: "heads", role: "group", "aria-label": "Heads; pressed means switched off" }, ...buttons, reset);
    canvas.append(label, tokens, make("p", { class: "small" }, "Press a head to switch it off; press it again to restore it."), group, says, answers);
    choice.addEventListener("change", () => show(Number(choice.value), current().mask, true));

    const current = () => state.switches[id] || { example: 0, mask: 0 };
    const list = (heading, ranked, target, kind) => {
      const items = make("ol");
      for (const [symbol, probability] of ranked.slice(0, 6)) {
        const percent = probability === null ? "–" : `${(100 * probability).toFixed(1)} %`;
        const bar = make("i");
        bar.style.width = `${Math.max(0, Math.min(100, 100 * (probability || 0)))}%`;
        items.append(make("li", { class: symbol === target ? "target" : "" },
          make("b", {}, symbol), make("span", { class: "bar", "aria-hidden": "true" }, bar), make("span", { class: "n" }, percent)));
      }
      return make("div", { class: kind }, make("h4", {}, heading), items);
    };
    function show(index, mask, keep) {
      const example = data.examples[index] || data.examples[0];
      index = data.examples.indexOf(example);
      state.switches[id] = { example: index, mask };
      choice.value = String(index);
      buttons.forEach((button, h) => button.setAttribute("aria-pressed", String(Boolean((mask >> h) & 1))));
      tokens.textContent = example.tokens.join(" ");
      const without = off(mask, data.heads);
      const before = example.answers["0"], after = example.answers[String(mask)];
      answers.replaceChildren();
      if (before) answers.append(list("All heads on", before, example.target, "before"));
      if (!after) says.textContent = `Without ${without}: not precomputed; switch fewer heads off.`;
      else if (!mask) says.textContent = `All heads on: the model answers ${after[0][0]}; the correct answer is ${example.target}.`;
      else {
        answers.append(list(`Without ${without}`, after, example.target, "after"));
        const now = after[0][0];
        const verb = before && before[0][0] === now ? `still answers ${now}` : `answers ${now}` + (before ? ` instead of ${before[0][0]}` : "");
        says.textContent = `Without ${without} the model ${verb}; the correct answer is ${example.target}.`;
      }
      if (keep) save();
    }
    canvas.closest(".chart").restore = () => show(current().example, current().mask, false);
    show(current().example, current().mask, false);
  }

  /* Circuits: those of one row share their scale, their threshold and what is chosen in them */
  const views = new Map(), widgets = new Map();
  const widgetOf = (chart) => {
    if (!widgets.has(chart)) widgets.set(chart, content(chart).widget);
    return widgets.get(chart);
  };
  function circuit(canvas, chart, model) {
    library("circuit");
    const row = chart.closest(".row");
    const shared = {
      get: () => ({ least: 0, kept: true, chosen: "", ...state.circuits[row.id] }),
      reach: () => Math.max(0, ...all(".cell:not([hidden]) [data-kind=circuit]", row).flatMap((its) => widgetOf(its).edges.effect).map(Math.abs)),
      change: (choice) => {
        state.circuits[row.id] = { ...shared.get(), ...choice };
        for (const its of all(".chart", row)) views.get(its)?.show(its === chart);
        save();
      },
    };
    views.set(chart, Circuit.view(canvas, model(Circuit), shared));
    canvas.style.minHeight = "";
  }
  const pairOf = (chart) => [state.left, state.right].map((model) =>
    all(".cell", chart.closest(".row")).find((its) => its.dataset.model === model)?.querySelector("[data-kind=circuit]"));
  function differences(chart) {
    library("circuit");
    return { title: "Differences", ...Circuit.minus(...pairOf(chart).map(widgetOf), [state.left, state.right]).table };
  }
  function compare(chart) {
    const [a, b] = state.left === state.right ? [] : pairOf(chart).map((its) => its && widgetOf(its));
    const alike = Boolean(a && b) && a.depth === b.depth && a.heads === b.heads;
    const apart = chart.closest(".apart"), details = chart.querySelector("details");
    apart.hidden = !alike;
    apart.nextElementSibling.hidden = alike || !a || !b;
    apart.querySelector(".first").textContent = `1: ${state.left}`;
    apart.querySelector(".second").textContent = `2: ${state.right}`;
    chart.querySelector(".canvas").replaceChildren();
    details.querySelector(".scroll").replaceChildren();
    views.delete(chart);
    if (alike && chart.dataset.drawn) {
      delete chart.dataset.drawn;
      draw(chart);
    }
    if (alike && details.open) fill(details);
  }

  /* Which models are shown */
  function arrange() {
    const single = !state.right || state.right === state.left;
    const side = (element) => element.dataset.model === state.left ? 1 : element.dataset.model === state.right ? 2 : 0;
    for (const grid of all(".grid")) grid.classList.toggle("single", single);
    for (const cell of all(".cell")) {
      cell.hidden = !side(cell);
      cell.style.order = side(cell);
    }
    for (const line of all(".compare tr:not(.group)")) {
      for (const cell of all(".model", line)) cell.hidden = !side(cell);
      line.append(...all(".model:not([hidden])", line).sort((a, b) => side(a) - side(b)));
    }
    for (const head of all(".compare .group th")) head.colSpan = 1 + (single ? 1 : 2);
    for (const row of all(".row")) row.hidden = !row.querySelector(".cell:not([hidden])");
    for (const place of ["left", "right"]) if (byId(place)) byId(place).value = state[place];
    all("[data-kind=difference]").forEach(compare);
    for (const view of views.values()) view.show(false);
    fit();
  }
  /* A plot drawn at another width, such as before its neighbour was hidden. */
  function fit() {
    for (const canvas of all("[data-kind=plot][data-drawn=yes] .canvas"))
      if (canvas.checkVisibility() && canvas._fullLayout && Math.abs(canvas._fullLayout.width - canvas.clientWidth) > 1) Plotly.Plots.resize(canvas);
  }

  /* One panel of several at a time */
  function choose() {
    for (const select of all("select.choice")) {
      select.value = state.choices[select.id] ?? "0";
      for (const panel of all(".panel", select.closest("section"))) panel.hidden = panel.dataset.choice !== select.value;
    }
    fit();
  }

  /* State in the address */
  function save() {
    const parts = new URLSearchParams();
    if (state.at) parts.set("at", state.at);
    if (state.left !== initial.left) parts.set("left", state.left);
    if (state.right !== initial.right) parts.set("right", state.right);
    for (const [id, { example, mask }] of Object.entries(state.switches)) if (example || mask) parts.set(id, `${example}.${mask}`);
    for (const [id, { least, kept, chosen }] of Object.entries(state.circuits))
      if (least || !kept || chosen) parts.set(`${id}.graph`, `${least} ${kept ? "kept" : "all"} ${chosen}`);
    for (const [id, chosen] of Object.entries(state.choices)) if (chosen !== "0") parts.set(id, chosen);
    const text = parts.toString();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }
  function load() {
    const text = location.hash.slice(1);
    const parts = new URLSearchParams(text.includes("=") ? text : { at: decodeURIComponent(text) });
    const known = (name, otherwise) => (name === "" || initial.models.includes(name) ? name : otherwise);
    state.at = byId(parts.get("at") || "") ? parts.get("at") : "";
    state.left = known(parts.get("left") ?? initial.left, initial.left) || initial.left;
    state.right = known(parts.get("right") ?? initial.right, initial.right);
    state.switches = {};
    for (const chart of all("[data-kind=switches]")) {
      const match = /^(\d+)\.(\d+)$/.exec(parts.get(chart.id) || "");
      if (match) state.switches[chart.id] = { example: Number(match[1]), mask: Number(match[2]) };
    }
    state.circuits = {};
    for (const { id } of all(".row")) {
      const match = /^([\d.e-]+) (kept|all) (.*)$/.exec(parts.get(`${id}.graph`) || "");
      if (match && Number(match[1]) >= 0) state.circuits[id] = { least: Number(match[1]), kept: match[2] === "kept", chosen: match[3] };
    }
    state.choices = {};
    for (const { id, options } of all("select.choice")) {
      const chosen = parts.get(id);
      if ([...options].some((option) => option.value === chosen)) state.choices[id] = chosen;
    }
    choose();
    arrange();
    all("[data-kind=switches][data-drawn=yes]").forEach((chart) => chart.restore());
    if (state.at) go(state.at);
  }
  function go(id) {
    const section = byId(id);
    if (section.matches("details")) section.open = true;
    section.scrollIntoView();
    const title = section.querySelector("[tabindex='-1'], summary");
    if (title) title.focus({ preventScroll: true });
  }

  all("a[href^='#']").forEach((link) => link.addEventListener("click", (event) => {
    event.preventDefault();
    state.at = link.getAttribute("href").slice(1);
    save();
    go(state.at);
  }));
  for (const side of ["left", "right"]) if (byId(side)) byId(side).addEventListener("change", (event) => {
    state[side] = event.target.value;
    arrange();
    save();
  });
  all("select.choice").forEach((select) => select.addEventListener("change", () => {
    state.choices[select.id] = select.value;
    choose();
    save();
  }));
  all(".pair").forEach((button) => button.addEventListener("click", () => {
    state.left = button.dataset.left;
    state.right = button.dataset.right;
    state.at = document.querySelector(".probe").id;
    arrange();
    save();
    go(state.at);
  }));
  all("details.numbers").forEach((details) => details.addEventListener("toggle", () => details.open && fill(details)));
  all(".row > summary").forEach((summary) => summary.addEventListener("click", () => {
    const row = summary.parentElement;
    if (!row.open) state.at = row.id;
    else if (state.at === row.id) state.at = row.closest("section").id;
    save();
  }));
  all(".row").forEach((row) => row.addEventListener("toggle", fit));
  all(".all button").forEach((button) => {
    const opens = button.textContent;
    button.addEventListener("click", () => {
      const rows = all(".row", button.closest("section")), open = button.textContent === opens;
      rows.forEach((row) => { row.open = open; });
      button.textContent = open ? "Close all" : opens;
    });
  });
  window.addEventListener("hashchange", load);
  window.addEventListener("beforeprint", () => all(".chart").filter((chart) => chart.checkVisibility()).forEach(draw));

  /* Where the reader is */
  const links = new Map(all("nav a").map((link) => [link.getAttribute("href").slice(1), link]));
  const spy = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(entry.target.id)?.setAttribute("aria-current", "location");
  }), { rootMargin: "-15% 0px -75% 0px" });
  all("main section").forEach((section) => spy.observe(section));

  load();
  all(".chart").forEach((chart) => watcher.observe(chart));
})();
