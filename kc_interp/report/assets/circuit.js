"use strict";
/* Circuits on a fixed grid: who writes to the stream, who reads from it, and how much every edge carries.

   Blocks stand one above the other, heads from left to right, the MLP at the right and half a row higher, because it
   reads what the heads of its block write. Models of one shape are drawn alike, so that the eye can compare them.
   A `model` is what is drawn (one circuit, or two subtracted); a view draws it and asks `shared` what to show of it. */
window.Circuit = (() => {
  const set = (element, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const make = (tag, attributes = {}, ...children) => set(document.createElement(tag), attributes, children);
  const mark = (tag, attributes = {}, ...children) =>
    set(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  /* Numbers and names */
  const known = (value) => value !== null && value !== undefined;
  const shown = (value) => (known(value) ? String(Number(value.toPrecision(3))).replaceAll("-", "−") : "–");
  const number = (value) => (known(value) ? make("data", { value }, shown(value)) : "–");
  const interval = (low, high) => (known(low) && known(high) ? make("span", { class: "ci" }, ` [${shown(low)}, ${shown(high)}]`) : "");
  const named = (term, unit) => make("span", {}, term, ...(unit ? [make("span", { class: "sub" }, unit)] : []));
  const size = (item) => (known(item.value) ? Math.abs(item.value) : -1);
  const strongest = (items) => [...items].sort((a, b) => size(b) - size(a));
  const title = (name) => name.replace("->", " → ");
  const PARTS = { q: "query", k: "key", v: "value" };
  const meaning = (name) => {
    const head = /^a(\d+)\.h(\d+)(?:<(.)>)?$/.exec(name), mlp = /^m(\d+)$/.exec(name);
    if (head) return `${head[3] ? `the ${PARTS[head[3]]} input of ` : ""}head ${head[2]} of block ${head[1]}`;
    if (mlp) return `the MLP of block ${mlp[1]}`;
    return { token: "the token embedding", position: "the position embedding", bias: "the attention biases", logits: "the unembedding" }[name] || name;
  };

  /* What is drawn */
  function edgeOf(name, more) {
    const [source, target] = name.split("->");
    return { name, source, target, node: target.replace(/<.>$/, ""), part: (/<(.)>$/.exec(target) || [])[1], ...more };
  }
  function one(widget) {
    const { names, effect, low, high, kept, scores } = widget.edges;
    const edges = names.map((name, i) => edgeOf(name, { i, value: effect[i], low: low[i], high: high[i], kept: kept[i] ? "kept" : "" }));
    const order = new Map(strongest(edges).map((edge, i) => [edge, i + 1]));
    return {
      ...widget,
      edges,
      nodes: widget.nodes.map((node, i) => ({ ...node, i, value: node.effect })),
      signs: ["effect above 0", "effect below 0"],
      leastLabel: "Least effect drawn",
      keptLabel: "Only the kept circuit",
      keptWords: "kept",
      kinds: [["", "not kept"]],
      facts: (item) => [[named("effect", widget.unit), number(item.value), interval(item.low, item.high)],
        ...(order.has(item) ? [["rank by size", `${order.get(item)} of ${edges.length}`], ["kept", item.kept ? "yes" : "no"]] : []),
        ...(order.has(item) ? Object.keys(scores).map((method) => [method, number(scores[method][item.i])]) : [])],
      moved: (item) => widget.examples
        .map(({ clean, twin, moved, movedNodes }) => ({ clean, twin, value: (order.has(item) ? moved : movedNodes || [])[item.i] }))
        .filter(({ value }) => known(value)),
    };
  }
  /* Two circuits subtracted, edge by edge and node by node: what only one of them lists has no difference. */
  function minus(a, b, names) {
    const sides = [a, b].map(one);
    const both = (kind) => {
      const found = sides.map((side) => new Map(side[kind].map((item) => [item.name, item])));
      return [...new Set(sides.flatMap((side) => side[kind].map(({ name }) => name)))].map((name) => {
        const of = found.map((items) => items.get(name));
        const value = of.every((item) => item && known(item.value)) ? of[0].value - of[1].value : null;
        const kept = of.map((item) => Boolean(item && item.kept));
        return { ...(kind === "edges" ? edgeOf(name) : { name, text: "" }), of, value,
          kept: kept[0] && kept[1] ? "both" : kept[0] ? "first" : kept[1] ? "second" : "" };
      });
    };
    const says = { both: "by both", first: "by 1 only", second: "by 2 only", "": "by neither" };
    const numbered = names.map((name, i) => `${i + 1}: ${name}`);
    return {
      ...sides[0],
      edges: both("edges"),
      nodes: both("nodes"),
      keptSays: [...new Set(sides.map((side) => side.keptSays))].filter(Boolean).join("; "),
      signs: ["difference above 0", "difference below 0"],
      leastLabel: "Least difference drawn",
      keptLabel: "Only what either keeps",
      keptWords: "kept by either",
      kinds: [["first", "kept by 1 only"], ["second", "kept by 2 only"], ["", "kept by neither"]],
      facts: (item) => [[named("difference", sides[0].unit), number(item.value)],
        ...numbered.map((which, i) => [which, ...(item.of[i] ? [number(item.of[i].value), interval(item.of[i].low, item.of[i].high)] : ["not listed"])]),
        ...(item.source ? [["kept", says[item.kept]]] : [])],
      moved: () => [],
      table: {
        columns: ["node or edge", ...numbered, "difference", "kept"],
        numeric: [false, true, true, true, false],
        rows: [...both("nodes"), ...both("edges")].map((item) =>
          [item.name, ...item.of.map((its) => shown(its && its.value)), shown(item.value), item.source ? says[item.kept] : "–"]),
      },
    };
  }

  /* Where things stand: rows are counted from the embeddings up, heads on odd ones, MLPs on even ones */
  const TO_HEADS = 78, TO_MLP = 54, HALF = 30, TALL = 26, PORT = 8, APART = 19, LEAST_COLUMN = 68, GUTTER = 18;
  function grid(model, width) {
    const columns = model.heads + 1, column = Math.max(LEAST_COLUMN, (width - GUTTER) / columns);
    const last = 2 * model.depth + 1, across = GUTTER + column * columns, up = (row) => TO_HEADS * Math.ceil(row / 2) + TO_MLP * Math.floor(row / 2);
    const height = up(last - 1) + TO_MLP + TALL + 8, y = (row) => height - TALL / 2 - 4 - (row === last ? up(last - 1) + TO_MLP : up(row));
    const x = (c) => GUTTER + column * (c + 0.5);
    const first = ["token", "position", "bias"].filter((name) => model.nodes.some((node) => node.name === name));
    const place = (name) => {
      const head = /^a(\d+)\.h(\d+)$/.exec(name), mlp = /^m(\d+)$/.exec(name);
      if (head) return { row: 2 * head[1] + 1, x: x(Number(head[2])), ports: true };
      if (mlp) return { row: 2 * mlp[1] + 2, x: x(model.heads) };
      if (name === "logits") return { row: last, x: (x(0) + x(model.heads)) / 2 };
      return { row: 0, x: GUTTER + ((across - GUTTER) * (first.indexOf(name) + 1)) / (first.length + 1) };
    };
    const nodes = new Map(model.nodes.map((node) => [node.name, place(node.name)]));
    for (const at of nodes.values()) at.y = y(at.row);
    const isFree = (row, at) => (row % 2 ? [...Array(model.heads).keys()] : [model.heads]).every((c) => Math.abs(at - x(c)) > HALF + 5);
    /* Past a box, an edge takes the gap beside it, a little apart from the other edges there. */
    const beside = (row, at, spread) => {
      if (isFree(row, at)) return at;
      const gaps = [...Array(columns + 1).keys()].map((c) => (c === 0 ? GUTTER + column / 4 - HALF / 2 : c === columns ? across - column / 4 + HALF / 2 : GUTTER + c * column));
      const gap = gaps.reduce((best, g) => (Math.abs(g - at) < Math.abs(best - at) ? g : best));
      return gap + spread * Math.max(0, column / 2 - HALF - 6) * (gap < x(0) || gap > x(model.heads) ? 0.4 : 0.8);
    };
    const path = (edge) => {
      const from = nodes.get(edge.source), to = nodes.get(edge.node);
      const start = { x: from.x, y: from.y - TALL / 2 };
      const end = { x: to.x + (edge.part ? "qkv".indexOf(edge.part) - 1 : 0) * APART, y: to.y + TALL / 2 + (edge.part ? 2 * PORT - 2 : 0) };
      const spread = (((from.x * 3 + end.x) / 18) % 5) / 2.5 - 1;
      const points = [start];
      for (let row = from.row + 1; row < to.row; row++)
        points.push({ x: beside(row, start.x + ((end.x - start.x) * (start.y - y(row))) / (start.y - end.y), spread), y: y(row) });
      points.push(end);
      const slope = points.map((_, i) => (i && i < points.length - 1 ? (points[i + 1].x - points[i - 1].x) / (points[i + 1].y - points[i - 1].y) : 0));
      const f = (value) => value.toFixed(1);
      return points.slice(1).reduce((text, p, i) => {
        const q = points[i], third = (p.y - q.y) * (points.length > 2 ? 0.36 : 0.5);
        return `${text}C${f(q.x + slope[i] * third)} ${f(q.y + third)} ${f(p.x - slope[i + 1] * third)} ${f(p.y - third)} ${f(p.x)} ${f(p.y)}`;
      }, `M${f(start.x)} ${f(start.y)}`);
    };
    return { nodes, path, y, across, height };
  }
  const PORTS = {
    q: () => mark("circle", { r: PORT }),
    k: () => mark("rect", { x: -PORT, y: -PORT, width: 2 * PORT, height: 2 * PORT }),
    v: () => mark("path", { d: `M0-10L10 0L0 10L-10 0Z` }),
  };
  const port = (part, x, y) =>
    mark("g", { class: `port ${part}`, transform: `translate(${x} ${y})` }, PORTS[part](), mark("text", { y: 4 }, part));

  /* Thresholds to choose from: round numbers down to a thousandth of the largest effect */
  function steps(reach) {
    const found = [0];
    if (!(reach > 0)) return found;
    for (let power = Math.floor(Math.log10(reach)) - 3; power <= Math.log10(reach); power++)
      for (const digits of [1, 1.5, 2, 3, 5, 7]) found.push(Number(`${digits}e${power}`));
    return found.filter((value) => value === 0 || (value >= reach / 1000 && value <= reach));
  }

  function view(canvas, model, shared) {
    const items = new Map([...model.nodes, ...model.edges].map((item) => [item.name, item]));
    const anyKept = model.edges.some((edge) => edge.kept);
    const slider = make("input", { type: "range", min: 0, step: 1, "aria-label": model.leastLabel });
    const readout = make("output");
    const box = make("input", { type: "checkbox" });
    box.disabled = !anyKept;
    const list = make("select", { "aria-label": "Node or edge" }, make("option", { value: "" }, "Choose a node or an edge"),
      options("Edges, strongest first", strongest(model.edges)), options("Nodes", model.nodes));
    const count = make("span"), pointed = make("span", { class: "n", "aria-hidden": "true" });
    const drawing = make("div", { class: "drawing" });
    const says = make("p", { class: "says-changed" });
    const details = make("div");
    const about = make("div", { class: "about" }, says, details);
    canvas.append(make("div", { class: "circuit" },
      make("div", { class: "steer" },
        make("label", { class: "least" }, make("span", {}, model.leastLabel), slider, readout),
        make("label", {}, box, ` ${model.keptLabel}`), make("label", { class: "pick" }, list)),
      make("p", { class: "drawn" }, count, pointed),
      make("div", { class: "both" }, make("div", {}, drawing, legend(model)), about)));

    let thresholds = [0], laid = null;
    const least = () => thresholds[Number(slider.value)];
    const isDrawn = (edge) => known(edge.value) && size(edge) >= least() && (!box.checked || edge.kept);
    slider.addEventListener("input", () => shared.change({ least: least() }));
    box.addEventListener("change", () => shared.change({ kept: box.checked }));
    list.addEventListener("change", () => shared.change({ chosen: list.value }));
    const choose = (name) => shared.change({ chosen: name });

    /* The boxes, drawn anew only when the width changes, so that the keyboard's focus stays where it is */
    function lay() {
      const width = drawing.clientWidth;
      if (!width || (laid && laid.width === width)) return;
      const at = grid(model, width);
      const svg = mark("svg", { width: at.across, height: at.height, viewBox: `0 0 ${at.across} ${at.height}`, role: "group",
        "aria-label": "Nodes of the graph; arrow keys move between them" });
      const edges = mark("g", { "aria-hidden": "true" }), digits = mark("g", { "aria-hidden": "true" }), lines = new Map();
      for (const edge of strongest(model.edges).reverse()) {
        if (!known(edge.value)) continue;
        const d = at.path(edge);
        lines.set(edge, mark("g", { "data-name": edge.name },
          mark("path", { class: "halo", d }), mark("path", { class: "line", d }), mark("path", { class: "hit", d })));
      }
      model.rows.forEach((row, block) => {
        const top = at.y(2 * block + 2) - TALL / 2 - 8, bottom = at.y(2 * block + 1) + TALL / 2 + 2 * PORT + 6;
        svg.append(mark("rect", { class: "block", x: 0, y: top, width: at.across, height: bottom - top, rx: 6 }),
          mark("text", { class: "row-name", transform: `translate(15 ${(top + bottom) / 2}) rotate(-90)` }, row));
      });
      edges.append(...lines.values());
      svg.append(edges, digits);
      const nodes = new Map(model.nodes.map((node) => {
        const { x, y, ports } = at.nodes.get(node.name), half = HALF + (node.name === "position" ? 4 : 0);
        const box = mark("g", { class: "node", role: "button", "data-name": node.name, tabindex: -1 },
          mark("rect", { x: x - half, y: y - TALL / 2, width: 2 * half, height: TALL, rx: 4 }),
          mark("text", { x, y: y + (ports ? 2 : 4) }, node.name),
          ...(ports ? ["q", "k", "v"].map((part, i) => port(part, x + (i - 1) * APART, y + TALL / 2 + PORT - 2)) : []));
        svg.append(box);
        return [node.name, box];
      }));
      svg.addEventListener("click", (event) => {
        const name = nameAt(svg, event);
        choose(name === shared.get().chosen ? "" : name);
      });
      svg.addEventListener("pointermove", (event) => point(nameAt(svg, event)));
      svg.addEventListener("pointerleave", () => point(""));
      svg.addEventListener("keydown", (event) => {
        const name = event.target.closest(".node")?.dataset.name;
        if (!name) return;
        const next = event.key === "Enter" || event.key === " " ? name : towards(at, name, event.key);
        if (event.key === "Escape") choose("");
        else if (!next) return;
        else {
          choose(next);
          nodes.get(next).focus();
        }
        event.preventDefault();
      });
      const hadFocus = drawing.contains(document.activeElement) && document.activeElement.dataset.name;
      drawing.replaceChildren(svg);
      laid = { width, at, edges, digits, lines, nodes };
      if (hadFocus) nodes.get(hadFocus).focus();
    }

    /* What the pointer is on, told beside the count of edges */
    function point(name) {
      if (pointed.dataset.name === name) return;
      pointed.dataset.name = name;
      pointed.textContent = name && `${title(name)}: ${shown(items.get(name).value)}`;
      for (const [edge, group] of laid.lines) group.classList.toggle("pointed", edge.name === name);
    }

    function show(acted) {
      const { chosen, kept, least: wished } = shared.get(), reach = shared.reach();
      thresholds = steps(reach);
      slider.max = thresholds.length - 1;
      slider.value = thresholds.findLastIndex((value) => value <= wished);
      box.checked = kept && anyKept;
      const drawn = strongest(model.edges.filter(isDrawn));
      const of = `${drawn.length} of ${model.edges.length} edges`;
      readout.textContent = least() ? shown(least()) : "all";
      slider.setAttribute("aria-valuetext", `${readout.textContent}: ${of} drawn`);
      const asks = [box.checked && model.keptWords, least() && `of at least ${shown(least())}${model.unit ? ` ${model.unit}` : ""}`].filter(Boolean);
      count.replaceChildren(make("strong", {}, of), ` drawn${asks.length ? `: ${asks.join(" and ")}` : ""}.`);

      const item = items.get(chosen);
      list.value = item ? chosen : "";
      says.setAttribute("aria-live", acted ? "polite" : "off");
      tell(item, drawn);
      lay();
      if (laid) paint(drawn, item, reach);
    }

    function paint(drawn, item, reach) {
      const { at, edges, lines, nodes } = laid, inside = new Set(drawn);
      const touches = (edge) => !item || edge === item || edge.source === item.name || edge.node === item.name;
      const digits = [];
      for (const [edge, group] of lines) {
        const share = reach ? size(edge) / reach : 0, [halo, line] = group.children, isOn = inside.has(edge) || edge === item;
        group.setAttribute("class", ["edge", edge.value < 0 ? "below" : "above", edge.kept || "unkept", edge === item && "chosen", !touches(edge) && "aside"].filter(Boolean).join(" "));
        group.toggleAttribute("hidden", !isOn);
        halo.setAttribute("stroke-width", (7 + 6 * share).toFixed(2));
        line.setAttribute("stroke-width", (1 + 6 * share).toFixed(2));
        line.setAttribute("opacity", edge === item ? 1 : (0.45 + 0.55 * Math.min(1, share)).toFixed(2));
        if (isOn && touches(edge) && ["first", "second"].includes(edge.kept)) digits.push([line, edge.kept === "first" ? "1" : "2"]);
      }
      if (laid.item !== item) {
        laid.item = item;
        const order = [...lines.keys()].sort((a, b) => touches(a) - touches(b) || (a === item) - (b === item));
        edges.replaceChildren(...order.map((edge) => lines.get(edge)));
      }
      laid.digits.replaceChildren(...written(digits, at));
      const used = new Set(drawn.flatMap((edge) => [edge.source, edge.node]));
      const roving = nodes.has(item?.name) ? item.name : model.nodes[0].name;
      const most = Math.max(...model.nodes.map(size));
      for (const node of model.nodes) {
        const box = nodes.get(node.name), share = most > 0 && known(node.value) ? size(node) / most : 0;
        const mine = drawn.filter((edge) => edge.source === node.name || edge.node === node.name).length;
        box.setAttribute("class", `node ${used.has(node.name) ? "" : "unused"} ${known(node.value) ? (node.value < 0 ? "below" : "above") : ""}`);
        box.setAttribute("aria-pressed", String(node === item));
        box.setAttribute("tabindex", node.name === roving ? 0 : -1);
        box.setAttribute("aria-label", `${node.name}${known(node.value) ? `, ${shown(node.value)}` : ""}, ${mine} edge${mine === 1 ? "" : "s"} drawn`);
        box.firstChild.setAttribute("stroke-width", (1.2 + 2.3 * share).toFixed(2));
      }
    }
    /* The numbers of what is chosen; of nothing, the strongest edges */
    function tell(item, drawn) {
      details.replaceChildren();
      if (!item) {
        says.textContent = drawn.length ? "The strongest edges drawn" : "No edge is drawn; lower the threshold.";
        details.append(links(drawn.slice(0, 8)), make("p", { class: "small hint" }, "Choose a node or an edge for its numbers."));
        return;
      }
      says.replaceChildren(title(item.name), make("span", { class: "sr" }, `: ${shown(item.value)}`));
      const [source, target] = item.name.split("->");
      details.append(make("p", { class: "small" }, target ? `From ${meaning(source)} to ${meaning(target)}.` : `${meaning(source)[0].toUpperCase()}${meaning(source).slice(1)}.`));
      if (item.text) details.append(make("p", { class: "small" }, item.text));
      const facts = make("dl", { class: "item" });
      for (const [term, ...values] of model.facts(item)) facts.append(make("div", {}, make("dt", {}, term), make("dd", {}, ...values.filter(Boolean))));
      details.append(facts);
      const moved = model.moved(item).sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, 3);
      if (moved.length) details.append(make("h5", {}, "Examples most moved by it"), examples(moved));
      if (!item.source) {
        const mine = drawn.filter((edge) => edge.source === item.name || edge.node === item.name);
        details.append(make("h5", {}, mine.length ? "Its edges drawn, strongest first" : "None of its edges is drawn"), links(mine.slice(0, 8)));
        if (mine.length > 8) details.append(make("p", { class: "small" }, `and ${mine.length - 8} more`));
      }
    }
    function links(edges) {
      const found = make("ol", { class: "links" });
      for (const edge of edges) {
        const button = make("button", { type: "button" }, title(edge.name));
        button.addEventListener("click", () => {
          choose(edge.name);
          says.setAttribute("tabindex", -1);
          says.focus();
        });
        found.append(make("li", {}, button, make("span", { class: "n" }, shown(edge.value))));
      }
      return found;
    }

    new ResizeObserver(() => laid?.width !== drawing.clientWidth && show(false)).observe(drawing);
    show(false);
    return { show };
  }

  /* Digits on lines, where no box and no other digit stands */
  function written(digits, at) {
    const taken = [...at.nodes.values()].map(({ x, y }) => ({ x, y: y + 6, across: HALF + 8, along: TALL + 6 }));
    return digits.map(([line, text]) => {
      const length = line.getTotalLength();
      const on = (share) => line.getPointAtLength(share * length);
      const isFree = ({ x, y }) => taken.every((box) => Math.abs(x - box.x) > box.across || Math.abs(y - box.y) > box.along);
      const { x, y } = on([0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74, 0.18, 0.82].find((share) => isFree(on(share))) ?? 0.5);
      taken.push({ x, y, across: 11, along: 14 });
      return digit(text, x, y);
    });
  }
  const digit = (text, x, y) => mark("text", { class: "digit", x: x.toFixed(1), y: (y + 4).toFixed(1) }, text);

  function examples(moved) {
    const found = make("ol", { class: "moved" });
    for (const { clean, twin, value } of moved)
      found.append(make("li", {}, make("span", {}, make("code", {}, clean), make("span", { class: "sub" }, "twin ", make("code", {}, twin))), make("span", { class: "n" }, number(value))));
    return found;
  }
  const options = (label, items) =>
    make("optgroup", { label }, ...items.map((item) => make("option", { value: item.name }, `${title(item.name)}: ${shown(item.value)}`)));
  /* The box under the pointer, or of the lines near it the nearest, since lines lie close together */
  function nameAt(svg, { clientX, clientY, target }) {
    const box = target.closest(".node");
    if (box) return box.dataset.name;
    const to = new DOMPoint(clientX, clientY).matrixTransform(svg.getScreenCTM().inverse());
    let best = "", nearest = Infinity;
    for (const hit of document.elementsFromPoint(clientX, clientY).filter((element) => element.matches(".hit"))) {
      const length = hit.getTotalLength();
      for (let at = 0; at <= length; at += 3) {
        const { x, y } = hit.getPointAtLength(at), far = Math.hypot(x - to.x, y - to.y);
        if (far < nearest) [best, nearest] = [hit.parentElement.dataset.name, far];
      }
    }
    return best;
  }
  /* The nearest node in an arrow's direction */
  function towards(at, name, key) {
    const step = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[key], from = at.nodes.get(name);
    if (!step) return "";
    let best = "", nearest = Infinity;
    for (const [other, to] of at.nodes) {
      const along = (to.x - from.x) * step[0] + (to.y - from.y) * step[1], across = Math.abs((to.x - from.x) * step[1]) + Math.abs((to.y - from.y) * step[0]);
      const far = along + 3 * across;
      if (other !== name && along > 1 && far < nearest) [best, nearest] = [other, far];
    }
    return best;
  }
  function legend(model) {
    const entry = (drawing, text) => make("li", {}, mark("svg", { width: 30, height: 20, viewBox: "0 0 30 20", "aria-hidden": "true" }, drawing), text);
    const line = (classes) => mark("g", { class: `edge ${classes}` }, mark("path", { class: "line", d: "M1 10H29", "stroke-width": 3 }));
    const sample = (kind) => {
      if (!kind) return line("above unkept");
      return mark("g", {}, line("above"), digit(kind === "first" ? "1" : "2", 15, 10));
    };
    const kept = model.edges.some((edge) => edge.kept);
    return make("div", { class: "marks" },
      make("ul", {}, entry(line("above kept"), model.signs[0]), entry(line("below kept"), model.signs[1]),
        ...(kept ? model.kinds.map(([kind, text]) => entry(sample(kind), text)) : []),
        ...Object.entries(PARTS).map(([part, name]) => entry(port(part, 15, 10), `${name} input`))),
      make("p", { class: "small" }, "Thicker: larger, on one scale for all edges of the row; a box's outline shows the node's own in the same way. a0.h1 is head 1 of block 0, m0 its MLP.",
        ...(model.keptSays && kept ? [` Kept: ${model.keptSays}.`] : [])));
  }

  return { one, minus, view };
})();
