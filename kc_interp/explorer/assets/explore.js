"use strict";
/* The page's own script: sends what is pressed, one action after the other, and draws the figures that come back.

   The server decides everything that the address says. What only a drawing needs (a circuit's threshold) is kept behind
   the address's #, where the server never sees it. */
(() => {
  const byId = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const set = (id, properties) => window.dash_clientside.set_props(id, properties);

  const version = document.querySelector("meta[name=version]").content;
  const shared = (name) => `/shared/${name}.js?v=${version}`;

  /* Actions: one at a time, because each is about the state that the one before it leaves */
  const waiting = [];
  let number = 0, sent = null, timer = 0;
  function send(action) {
    acted = performance.now();
    if (waiting.length < 20) waiting.push(action);
    next();
  }
  function next() {
    if (sent !== null || !waiting.length) return;
    sent = ++number;
    wait(sent);
    set("action", { data: { ...waiting.shift(), n: sent } });
  }
  /* No answer for a while: the next action still waits for it, unless the server is gone and will never give it */
  const say = (text) => place(byId("said"), `<div class="alert" role="alert">${text}</div>`);
  const GONE = "The explorer does not answer. Does it still run in its terminal?";
  function wait(n) {
    timer = setTimeout(async () => {
      const answers = fetch(shared("circuit"), { method: "HEAD", cache: "no-store", signal: AbortSignal.timeout(2000) });
      const text = await answers.then(() => "Still computing.", ({ name }) => (name === "TimeoutError" ? GONE : ""));
      if (n !== sent) return;
      if (text) {
        say(text);
        wait(n);
      } else fail(n, GONE);
    }, 4000);
  }
  function settle(n) {
    if (n !== sent) return;
    clearTimeout(timer);
    sent = null;
    next();
  }
  /* A request that fails brings no answer to put in place: what it was about is dropped, and what came after it */
  function fail(n, text) {
    if (n !== sent) return;
    waiting.length = 0;
    say(text);
    settle(n);
  }
  const fetched = window.fetch;
  window.fetch = async (...asked) => {
    const n = sent, isTurn = String(asked[1]?.body).startsWith('{"output":"..address.search');
    try {
      const response = await fetched(...asked);
      if (isTurn && !response.ok) fail(n, `The explorer refused the request (${response.status}); nothing was changed.`);
      return response;
    } catch (error) {
      if (isTurn) fail(n, GONE);
      throw error;
    }
  };
  /* What the server answers is put in place, and with it the next action sent */
  let shown = { question: "", twin: "" };
  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    explore: {
      place: (screen) => {
        const keep = window.dash_clientside.no_update;
        if (!screen) return [keep, keep];
        const focused = document.activeElement;
        for (const [id, html] of Object.entries(screen.html)) place(byId(id), html);
        if (focused?.disabled || !focused?.isConnected) byId("undo")?.focus();
        if (screen.html.start !== undefined) byId("desk").hidden = Boolean(screen.html.start);
        scan();
        setTimeout(() => settle(screen.n));
        const changed = ["question", "twin"].map((name) => (name in screen && screen[name] !== shown[name] ? screen[name] : keep));
        if ("question" in screen) shown = { question: screen.question, twin: screen.twin };
        return changed;
      },
      show: (html) => {
        place(byId("view"), html ?? "");
        place(byId("shown"), `${byId("tabs").querySelector("[aria-current]")?.textContent ?? ""} is shown.`);
        scan();
      },
    },
  });

  /* HTML into an element, changing what differs: what stays keeps its focus, and a live region says what is new */
  function place(target, html) {
    if (!target || target.placed === html) return;
    target.placed = html;
    const template = make("template");
    template.innerHTML = html;
    follow(target, template.content);
  }
  const OWN = { canvas: ["class", "style", "data-drawn"], numbers: ["open"] };
  const own = (element) => (element.matches(".canvas") ? OWN.canvas : element.matches("details") ? OWN.numbers : []);
  const isAlike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id ?? "") === (b.id ?? "") && a.dataset?.kind === b.dataset?.kind;
  function follow(target, source) {
    const have = [...target.childNodes], wanted = [...source.childNodes];
    wanted.forEach((node, i) => {
      const old = have[i];
      if (!old) target.append(node);
      else if (!isAlike(old, node)) old.replaceWith(node);
      else if (node.nodeType !== Node.ELEMENT_NODE) {
        if (old.data !== node.data) old.data = node.data;
      } else {
        for (const name of old.getAttributeNames()) if (!node.hasAttribute(name) && !own(old).includes(name)) old.removeAttribute(name);
        for (const name of node.getAttributeNames())
          if (old.getAttribute(name) !== node.getAttribute(name) && !own(old).includes(name)) old.setAttribute(name, node.getAttribute(name));
        if (!old.matches(".canvas, .numbers > .scroll")) follow(old, node);
      }
    });
    have.slice(wanted.length).forEach((node) => node.remove());
  }

  /* Controls */
  const clean = (id) => byId(id).value.replace(/\s+/g, " ").trim();
  const forms = {
    ask: () => {
      const action = { do: "set" };
      for (const name of ["question", "twin"]) if (clean(name) !== shown[name]) action[name] = clean(name);
      if (Object.keys(action).length > 1) send(action);
    },
    random: () => send(byId("depth") ? { do: "random", depth: Number(byId("depth").value) } : { do: "random" }),
    cut: () => {
      const where = byId("where").value;
      if (clean("what")) send({ do: "cut", what: clean("what"), ...(where === "" ? {} : { position: Number(where) }) });
    },
    look: () => {
      const part = clean("what"), view = /\.n\d+$/.test(part) ? "neurons" : /^a\d+\.h\d+$/.test(part) ? "attention" : null;
      if (part) send({ do: "set", part, ...(view ? { view } : {}) });
    },
    open: () => send({ do: "set", models: [...new Set([byId("left").value, byId("right").value])] }),
    cell: (button) => {
      const canvas = byId(button.dataset.of), chosen = (which) => byId(canvas.id.replace("canvas", which));
      act(canvas, Number(chosen("row")?.value ?? 0), Number(chosen("column")?.value ?? 0));
    },
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-act], [data-form]");
    if (!button || button.disabled) return;
    if (button.dataset.act) send(JSON.parse(button.dataset.act));
    else forms[button.dataset.form]?.(button);
  });
  document.addEventListener("change", ({ target }) => {
    if (target.dataset.set) send({ do: "set", [target.dataset.set]: target.value });
    if (target.dataset.pick) send({ do: "set", models: [...new Set([byId("first").value, byId("second").value])].filter(Boolean) });
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input:not([type=range]):not([type=checkbox]), textarea");
    if (event.key === "Enter" && typing) {
      const form = { question: "ask", twin: "ask", what: "cut" }[event.target.id];
      if (form) forms[form]();
    }
    if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z" && !typing) {
      event.preventDefault();
      send({ do: "undo" });
    }
  });

  /* A cell of a heatmap: a part, a position, or both */
  function act(canvas, row, column) {
    const [rows, columns] = [canvas.dataset.rows, canvas.dataset.columns].map((text) => JSON.parse(text || "[]"));
    const part = rows[row], position = columns[column];
    if (canvas.dataset.does === "cut") {
      if (part === undefined) return;
      const how = canvas.dataset.how ? { how: canvas.dataset.how } : {};
      send({ do: "cut", what: part, ...(position === undefined ? {} : { position }), ...how });
    } else if (part !== undefined || position !== undefined) {
      send({ do: "set", ...(part === undefined ? {} : { part }), ...(position === undefined ? {} : { at: position }) });
    }
  }

  /* Figures: each is JSON in its canvas's `data-island`, drawn when it is in view and anew when the JSON changes */
  const libraries = new Map();
  function library(name) {
    // CircuitsVis decodes the address when it is loaded, and fails on one that is no UTF-8.
    try {
      decodeURIComponent(location.search);
    } catch {
      history.replaceState(history.state, "", location.pathname + location.hash);
    }
    if (!libraries.has(name))
      libraries.set(name, new Promise((done, failed) => {
        const script = make("script", { src: shared(name) });
        script.addEventListener("load", done);
        script.addEventListener("error", () => {
          libraries.delete(name);
          failed(new Error(`${name} could not be loaded`));
        });
        document.head.append(script);
      }));
    return libraries.get(name);
  }
  const PLOTS = { displaylogo: false, responsive: true, displayModeBar: false };
  const drawers = {
    plot: async (canvas, data) => {
      await library("plotly");
      await Plotly.react(canvas, data.plot.data, data.plot.layout, PLOTS);
      if (canvas.dataset.does && !canvas.listens) {
        canvas.listens = true;
        canvas.addEventListener("click", pick);
      }
    },
    attention: (canvas, data) => circuitsvis(canvas, "AttentionHeads", data.widget),
    tokens: (canvas, data) => circuitsvis(canvas, "ColoredTokens", data.widget),
    circuit,
  };
  /* Plotly's own click needs the pointer to have moved since the figure was drawn. */
  function pick(event) {
    const area = event.target.closest(".nsewdrag"), canvas = event.currentTarget;
    if (!area || !canvas._fullLayout?.xaxis || !canvas.dataset.does) return;
    const { xaxis, yaxis } = canvas._fullLayout, { left, top } = area.getBoundingClientRect();
    act(canvas, Math.round(yaxis.p2d(event.clientY - top)), Math.round(xaxis.p2d(event.clientX - left)));
  }
  let places = 0;
  async function circuitsvis(canvas, component, properties) {
    await library("circuitsvis");
    const place = make("div", { id: `widget-${++places}` });
    canvas.replaceChildren(place);
    window.CircuitsVis.render(place.id, window.CircuitsVis[component], properties);
  }

  /* Circuits share their threshold and what is chosen in them; choosing points all views to that part */
  const look = { least: 0, kept: true, ...read() };
  function read() {
    const match = /^#graph=([\d.e-]+),(kept|all)$/.exec(location.hash);
    return match && Number(match[1]) >= 0 ? { least: Number(match[1]), kept: match[2] === "kept" } : {};
  }
  let saving = 0;
  function save() {
    clearTimeout(saving);
    saving = setTimeout(() => {
      const hash = look.least || !look.kept ? `#graph=${look.least},${look.kept ? "kept" : "all"}` : "";
      if (hash !== location.hash) set("address", { hash });
    }, 150);
  }
  window.addEventListener("popstate", () => {
    Object.assign(look, { least: 0, kept: true }, read());
    circuits().forEach((its) => its.show(false));
  });
  const part = () => byId("view").querySelector(".view")?.dataset.partChosen ?? "";
  let chosen = null;
  async function circuit(canvas, data) {
    await library("circuit");
    canvas.replaceChildren();
    canvas.reach = Math.max(0, ...data.widget.edges.effect.map((value) => Math.abs(value ?? 0)));
    const button = make("button", { type: "button", class: "cut-chosen", hidden: "" });
    const together = {
      get: () => ({ ...look, chosen: chosen ?? part() }),
      reach: () => Math.max(0, ...circuits().map((its) => its.reach)),
      change: (choice) => {
        if ("chosen" in choice) {
          chosen = choice.chosen;
          send({ do: "set", part: chosen });
        }
        for (const name of ["least", "kept"]) if (name in choice) look[name] = choice[name];
        for (const its of circuits()) its.show(its === canvas);
        save();
      },
    };
    const view = Circuit.view(canvas, Circuit.one(data.widget), together);
    canvas.show = (acted) => {
      view.show(acted);
      const name = together.get().chosen;
      button.hidden = !name || name === "logits" || name === "bias";
      button.textContent = `Cut ${name.replace("->", " → ")}`;
      button.dataset.act = JSON.stringify({ do: "cut", what: name });
    };
    canvas.querySelector(".about").firstChild.after(button);
    circuits().forEach((its) => its.show(false));
  }
  const circuits = () => all(".canvas[data-kind=circuit]").filter((canvas) => canvas.show);

  const drawn = new Set();
  function erase(canvas) {
    if (canvas._fullLayout && window.Plotly) Plotly.purge(canvas);
    canvas.removeEventListener("click", pick);
    for (const name of ["listens", "show", "reach"]) delete canvas[name];
  }
  async function draw(canvas) {
    const { island, kind } = canvas.dataset;
    if (canvas.island === island) return;
    if (canvas.kind && (canvas.kind !== kind || kind !== "plot")) erase(canvas);
    if (canvas.kind !== kind) canvas.replaceChildren();
    Object.assign(canvas, { island, kind });
    drawn.add(canvas);
    const mine = (canvas.turn = (canvas.turn ?? 0) + 1);
    delete canvas.dataset.drawn;
    try {
      await drawers[kind](canvas, JSON.parse(island));
      if (kind !== "attention") canvas.style.minHeight = "";
    } catch (error) {
      canvas.replaceChildren(make("p", { class: "alert" }, `This figure could not be drawn: ${error.message}`));
    }
    if (canvas.turn === mine) canvas.dataset.drawn = "yes";
  }
  /* One at a time, with room between for what the reader does; patterns, which take longest, when nothing is asked */
  const HEAVY = ["attention", "tokens"];
  const due = new Set();
  let drawing = false, acted = 0;
  function plan(canvas) {
    due.add(canvas);
    if (!drawing) work();
  }
  async function work() {
    drawing = true;
    while (due.size) {
      const ready = [...due].find((canvas) => !HEAVY.includes(canvas.dataset.kind)) ?? [...due][0];
      const rest = 350 - (performance.now() - acted);
      if (HEAVY.includes(ready.dataset.kind) && rest > 0) {
        await new Promise((done) => setTimeout(done, rest));
        continue;
      }
      due.delete(ready);
      if (ready.isConnected) await draw(ready);
      await new Promise((done) => setTimeout(done));
    }
    drawing = false;
  }
  const watcher = new IntersectionObserver(
    (entries) => entries.forEach(({ target, isIntersecting }) => {
      target.near = isIntersecting;
      if (isIntersecting) plan(target);
    }),
    { rootMargin: "250px" },
  );

  /* The numbers under a figure, as in the report: filled when opened */
  const round = (value) => (value === null ? "–" : String(Number(value.toPrecision(3))));
  const rowsOf = {
    attention: ({ tokens, attention, attentionHeadNames }) => attention.flatMap((pattern, head) =>
      pattern.map((row, i) => [attentionHeadNames[head], `${i}: ${tokens[i]}`, ...row.map(round)])),
    circuit: ({ nodes, edges: { names, effect, low, high, kept, scores } }) => {
      const methods = Object.values(scores);
      return [
        ...nodes.map((node) => [node.name, ...[node.effect, node.low, node.high].map((value) => round(value ?? null)), "–", ...methods.map(() => "–")]),
        ...names.map((name, i) => [name, ...[effect, low, high].map((its) => round(its[i] ?? null)), kept[i] ? "yes" : "no", ...methods.map((its) => round(its[i] ?? null))]),
      ];
    },
  };
  function fill(details) {
    const canvas = byId(details.dataset.of), place = details.querySelector(".scroll");
    if (!details.open || !canvas || place.island === canvas.dataset.island) return;
    place.island = canvas.dataset.island;
    const { table, widget } = JSON.parse(canvas.dataset.island);
    const cells = (tag, row, more) => row.map((cell, i) => make(tag, { class: table.numeric[i] ? "n" : "", ...more }, cell || "\u00a0"));
    const rows = (table.rows || rowsOf[canvas.dataset.kind](widget)).map((row) => make("tr", {}, ...cells("td", row, {})));
    place.replaceChildren(make("table", {},
      make("thead", {}, make("tr", {}, ...cells("th", table.columns, { scope: "col" }))), make("tbody", {}, ...rows)));
  }
  document.addEventListener("toggle", ({ target }) => target.matches?.("details.numbers") && fill(target), true);

  /* Whenever the page has changed: figures, selects, and a focus that went with the element that had it */
  let focused = null;
  const handle = (element) => element && element !== document.body && {
    selector: element.id ? `#${CSS.escape(element.id)}`
      : ["data-part", "data-position", "data-restore", "data-act", "aria-label"].filter((name) => element.hasAttribute(name)).slice(0, 1)
        .map((name) => `[${name}="${CSS.escape(element.getAttribute(name))}"]`)[0],
    side: element.closest(".side, .panel")?.dataset.side,
  };
  document.addEventListener("focusin", ({ target }) => { focused = handle(target); });
  document.addEventListener("focusout", ({ target }) => { if (target.isConnected) setTimeout(() => { if (target.isConnected && document.activeElement === document.body) focused = null; }); });
  function refocus() {
    if (!focused?.selector || document.activeElement !== document.body) return;
    const inside = focused.side === undefined ? document : document.querySelector(`.side[data-side="${focused.side}"]`) ?? document;
    (inside.querySelector(focused.selector) ?? byId("undo"))?.focus({ preventScroll: true });
  }
  function scan() {
    for (const canvas of drawn) if (!canvas.isConnected) {
      erase(canvas);
      watcher.unobserve(canvas);
      drawn.delete(canvas);
    }
    for (const canvas of all(".canvas[data-island]")) {
      if (!canvas.watched) {
        canvas.watched = true;
        watcher.observe(canvas);
      } else if (canvas.near && canvas.island !== canvas.dataset.island) plan(canvas);
    }
    for (const select of all("select[data-value]"))
      if (select.given !== select.dataset.value) select.value = select.given = select.dataset.value;
    if (chosen !== null && part() === chosen) chosen = null;
    all("details.numbers[open]").forEach(fill);
    refocus();
  }
  /* Where there is time, what the views need is fetched before it is asked for */
  window.addEventListener("load", () => setTimeout(() => ["plotly", "circuitsvis", "circuit"].reduce((before, name) => before.then(() => library(name)), Promise.resolve()).catch(() => {}), 300));
})();
