"use strict";
(() => {
  // The page works without this. Everything is text nodes; nothing is ever parsed as HTML.
  const AT_ONCE = 100, TRACKS = ["none", "val-select", "val-train", "train"];
  const find = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const form = find("#controls"), box = find("#details");
  const make = (tag, ...inside) => {
    const element = document.createElement(tag);
    element.append(...inside);
    return element;
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".copied button");
    if (!button) return;
    getSelection().selectAllChildren(find("pre", button.parentElement));
    button.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl+C";
  });
  if (!form) return;

  // --- tables ---
  const columns = form.dataset.keys.split(" ");
  const words = ["method", "generator", "track", "verification", "device", "notes", "pretrained"];
  const bodies = new Map(), texts = new WeakMap(), collator = new Intl.Collator("en", { numeric: true }), more = make("button");
  let sorting = "", most = AT_ONCE, opened = "";

  const first = (row, key) => {
    const known = texts.get(row) || texts.set(row, {}).get(row);
    return known[key] ??= row.cells[columns.indexOf(key)].firstChild.textContent.trim();
  };
  const number = (shown) => (shown === "best" ? 0 : parseFloat(shown.replace("−", "-").replaceAll(",", "")));
  const rowsOf = (body) => bodies.get(body) || bodies.set(body, [...body.rows]).get(body);
  const sorted = (rows) => {
    const key = sorting.replace("-", ""), sign = sorting.startsWith("-") ? -1 : 1;
    if (!columns.includes(key)) return rows;
    const compare = words.includes(key) ? (a, b) => collator.compare(a.shown, b.shown) : (a, b) => a.value - b.value;
    return rows
      .map((row) => {
        const shown = first(row, key);
        return { row, shown, value: number(shown), none: shown === "–" };
      })
      .sort((a, b) => a.none - b.none || (a.none ? 0 : sign * compare(a, b)))
      .map((each) => each.row);
  };
  const wanted = (chosen) => (row) => {
    const track = TRACKS.indexOf(first(row, "track"));
    return track <= TRACKS.indexOf(chosen.track)
      && (!chosen.labels || (chosen.labels === "no") === (track === 0))
      && ["generator", "verification", "pretrained"].every((key) => !chosen[key] || first(row, key) === chosen[key])
      && (!chosen.q || row.textContent.toLowerCase().includes(chosen.q.toLowerCase()));
  };
  const show = () => {
    const chosen = choices(), columnsShown = chosen.columns.split(" ");
    document.documentElement.classList.add("ready");
    all("[name=columns]", form).forEach(({ value }) => {
      document.documentElement.classList.toggle(`h${columns.indexOf(value) + 1}`, !columnsShown.includes(value));
    });
    all(".task").forEach((each) => each.classList.toggle("current", each.dataset.task === chosen.task));
    let view = null, count = 0, left = 0;
    all(".view").forEach((each) => {
      const { level, rule } = each.dataset;
      const current = level === chosen.level && rule === chosen.rule && each.matches(".task.current *");
      each.classList.toggle("current", current);
      if (current) view = each;
    });
    all("tbody:not(.apart)", view || make("i")).forEach((body) => {
      const rows = sorted(rowsOf(body).filter(wanted(chosen)));
      body.replaceChildren(...rows.slice(0, most));
      const apart = body.previousElementSibling;
      if (apart.matches(".apart")) apart.hidden = !rows.length;
      count += rows.length;
      left += Math.max(rows.length - most, 0);
    });
    all("thead th", view || make("i")).forEach((head) => {
      const mine = columns[head.cellIndex] === sorting.replace("-", "");
      if (mine) head.ariaSort = sorting.startsWith("-") ? "descending" : "ascending";
      else head.removeAttribute("aria-sort");
    });
    find("#count").textContent = `${count} row${count === 1 ? "" : "s"} shown`;
    find("#nothing").hidden = count > 0 || !find(".task.current .view");
    find("#nothing").textContent = chosen.rule === "val-worst-group" && chosen.track === "none"
      ? "This rule looks at group labels of the validation split, so none of its rows is on track none."
      : "No row fits what was chosen.";
    if (left) view.append(more);
    else more.remove();
    more.textContent = `Show more: ${left} left`;
  };

  // --- choices, which stand in the address ---
  const choices = () => {
    const data = new FormData(form), columnsShown = data.getAll("columns").join(" ");
    return { ...Object.fromEntries(data), columns: columnsShown };
  };
  const usual = choices();
  const remember = () => {
    const changed = Object.entries({ ...choices(), sort: sorting, row: opened })
      .filter(([key, value]) => value !== (usual[key] || ""));
    const hash = changed.length ? `#${new URLSearchParams(changed)}` : "";
    if (hash !== location.hash) history.replaceState(null, "", hash || location.pathname + location.search);
    if (parent !== window) parent.postMessage({ queryString: "", hash }, "https://huggingface.co");
  };
  const update = (rows = AT_ONCE) => {
    most = rows;
    show();
    remember();
  };
  const recall = () => {
    const asked = new URLSearchParams(location.hash.slice(1) || location.search);
    const columnsAsked = (asked.get("columns") || "").split(" ");
    for (const control of form.elements) {
      if (!asked.has(control.name)) continue;
      if (control.type === "radio") control.checked = control.checked || control.value === asked.get(control.name);
      else if (control.type === "checkbox") control.checked = columnsAsked.includes(control.value);
      else control.value = asked.get(control.name);
    }
    sorting = asked.get("sort") || "";
    offerLevels(asked.get("level"));
    const row = document.getElementById(`r${asked.get("row")}`), view = row && row.closest(".view");
    show();
    if (view && view.matches(".current")) open(row);
  };
  const offerLevels = (level) => {
    const { task } = choices(), usualLevel = all(".task").find((each) => each.dataset.task === task).dataset.level;
    const offered = all("label[data-task]", form).filter((each) => !(each.hidden = each.dataset.task !== task));
    const at = (value) => offered.map((each) => each.control).find((each) => each.value === value);
    const picked = at(level) || at(usualLevel);
    if (picked) picked.checked = true;
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    const { level } = choices();
    if (event.target.name === "task") offerLevels(level);
    update();
  });
  form.addEventListener("reset", () => setTimeout(() => {
    sorting = "";
    offerLevels(usual.level);
    update();
  }));
  more.addEventListener("click", () => update(most + AT_ONCE));
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".board button"), head = button && button.closest("thead th");
    if (head) {
      const key = columns[head.cellIndex], down = words.includes(key) || ["rank", "seconds", "gap", "flip_rate"].includes(key);
      const [once, again] = down ? [key, `-${key}`] : [`-${key}`, key];
      sorting = sorting === once ? again : once;
      update();
    } else if (button) open(button.closest("tr"));
  });

  // --- details of a row ---
  let data = null;
  const unpack = () => {
    const bytes = Uint8Array.from(atob(find("#data").textContent), (each) => each.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
  };
  const text = (index) => data.texts[index];
  const heading = (name, scope) => Object.assign(make("th", name), { scope });
  const list = (pairs) => make("dl", ...pairs.flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
  const blocks = {
    p: (lines) => make("ul", ...lines.map((line) => make("li", text(line)))),
    l: (links) => make("ul", ...links.map(text).map((href) => make("li", href.startsWith("https://")
      ? Object.assign(make("a", href), { href, target: "_blank", rel: "noopener noreferrer nofollow" }) : href))),
    k: (pairs) => list(pairs.map((pair) => pair.map(text))),
    t: ([heads, rows]) => make("table",
      make("thead", make("tr", ...heads.map((head) => heading(text(head), "col")))),
      make("tbody", ...rows.map(([name, ...cells]) => make("tr",
        heading(text(name), "row"), ...cells.map((each) => make("td", text(each))))))),
    c: (content) => {
      const shown = Object.assign(make("pre", text(content)), { tabIndex: 0 });
      return Object.assign(make("div", shown, make("button", "Copy")), { className: "copied" });
    },
    i: ([alt, source]) => Object.assign(make("img"), { alt: text(alt), src: text(source) }),
    g: ([task, values]) => {
      const { label, attribute, labels, attributes, places, aligned, scale } = data.tasks[text(task)];
      const alike = places.every((each) => String(each) === String(places[0]));
      const one = (value) => (value / scale).toFixed(scale > 1 ? 1 : 0);
      let k = 0;
      const cell = (y, a) => {
        const [mean, half] = values.slice(k, k += 2), kind = aligned[y] === a ? "b" : "span";
        const shown = make("td", alike ? "" : `${text(attributes[a])} `, make(kind, one(mean)));
        if (half >= 0) shown.append(make("small", `±${one(half)}`));
        shown.style.setProperty("--v", mean / scale);
        return shown;
      };
      const heads = alike ? places[0].map((a) => heading(text(attributes[a]), "col")) : [];
      const corner = heading(`${text(label)} ↓ ${text(attribute)} →`, "col");
      const rows = labels.map((name, y) => make("tr", heading(text(name), "row"), ...places[y].map((a) => cell(y, a))));
      return Object.assign(make("table",
        make("thead", make("tr", corner, ...heads)), make("tbody", ...rows)), { className: "heat" });
    },
  };
  const open = async (row) => {
    data = data || await unpack();
    const view = find(".view.current"), heads = all("thead button", view);
    const told = heads.map((head, k) => [head.textContent, row.cells[k].textContent.trim()]);
    const parts = [make("p", find("h3", view).textContent), list(told.filter((_, k) => columns[k] !== "method"))];
    for (const [kind, title, content] of data.details[row.dataset.d]) {
      const holder = make("div", blocks[kind](content));
      if ("tg".includes(kind)) Object.assign(holder, { className: "scroll", tabIndex: 0, role: "region", ariaLabel: text(title) });
      parts.push(make("h3", text(title)), holder);
    }
    find("h2", box).textContent = row.cells[1].textContent.trim();
    find("div", box).replaceChildren(...parts);
    opened = row.id.slice(1);
    box.showModal();
    box.scrollTop = 0;
    remember();
  };
  box.addEventListener("click", (event) => {
    if (event.target === box || event.target.matches(".close")) box.close();
  });
  box.addEventListener("close", () => {
    opened = "";
    remember();
  });
  all(".board thead button").forEach((button) => {
    const choice = find(`[value="${columns[button.parentElement.cellIndex]}"]`, form);
    if (choice) button.title = choice.parentElement.title;
  });
  recall();
})();
