// Extends Locust's page: helps to fill in the start form, and shows the figures in the tab "Triton".
"use strict";
(() => {
  const BASE = "@BASE@", FORM = "@FORM@";
  const element = (tag, className, text) => Object.assign(document.createElement(tag), {className, textContent: text});

  // Locust puts an option's help into its label, where it is cut off. Put it below the field.
  function arrange() {
    for (const [heading, options] of Object.entries(FORM)) {
      options.forEach((option, place) => {
        const field = find(option), box = field && field.closest(".MuiFormControl-root, .MuiFormControlLabel-root");
        if (!box || box.dataset.triton) return;
        box.dataset.triton = option.name;
        const labels = box.querySelectorAll("label, legend > span, .MuiFormControlLabel-label");
        for (const label of labels) label.textContent = option.label;
        box.append(help(option.help), element("p", "triton-note", ""));
        if (place === 0) box.before(element("h3", "triton-heading", heading));
        box.parentElement.classList.add("triton-form");
      });
    }
    // The scenario decides on the users, so Locust shows its own fields for them greyed out.
    for (const name of ["userCount", "spawnRate"]) {
      const field = document.querySelector(`form [name="${name}"]:disabled`);
      if (field) field.closest(".MuiFormControl-root").style.display = "none";
    }
    unfold();
    markUnused();
  }
  // An option's name must not be broken after its hyphens.
  function help(text) {
    const made = element("p", "triton-help", "");
    made.append(...text.split(/(--[a-z0-9-]+)/).map((part, i) => i % 2 ? element("span", "triton-name", part) : part));
    return made;
  }
  const find = option => document.querySelector(`form [name="${option.name}"]`);

  // The form cannot be sent without a model, so show the options at once.
  function unfold() {
    const field = document.querySelector("form [data-triton]:not([data-unfolded])");
    const summary = field && field.closest(".MuiAccordion-root")?.querySelector("[aria-expanded]");
    if (!summary) return;
    field.dataset.unfolded = "yes";
    if (summary.getAttribute("aria-expanded") === "false") summary.click();
  }

  function markUnused() {
    const scenario = document.querySelector('form [name="scenario"]');
    if (!scenario) return;
    for (const option of Object.values(FORM).flat()) {
      const field = find(option), box = field && field.closest("[data-triton]");
      if (!box) continue;
      const unused = option.scenarios.length > 0 && !option.scenarios.includes(scenario.value);
      const note = unused ? `Not used by scenario ${scenario.value}.` : "";
      if (field.disabled === unused && box.lastChild.textContent === note) continue;
      field.disabled = unused;
      box.classList.toggle("triton-unused", unused);
      box.lastChild.textContent = note;
    }
  }

  // The tab has one empty table of Locust's; the figures take its place.
  function showFigures() {
    const shown = new URLSearchParams(location.search).get("tab") === "triton";
    const frame = document.getElementById("triton-live"), table = document.querySelector(".MuiTableContainer-root");
    if (!shown) return void (frame && frame.remove());
    if (frame || !table) return;
    table.style.display = "none";
    const made = element("iframe", "", "");
    table.after(Object.assign(made, {id: "triton-live", src: `${BASE}/triton/live`, title: "Triton figures"}));
  }

  document.head.append(element("style", "", `
    .triton-form.triton-form { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1.2rem 1.5rem; align-items: start }
    .triton-heading { grid-column: 1 / -1; font: 500 1.1rem Roboto, sans-serif; margin: .5rem 0 0 }
    .triton-help, .triton-note { font: .8rem/1.4 Roboto, sans-serif; opacity: .75; margin: .3rem .9rem 0 }
    .MuiFormControlLabel-root[data-triton] { flex-wrap: wrap } .MuiFormControlLabel-root > p { flex-basis: 100% }
    .triton-name { white-space: nowrap }
    .triton-note { opacity: 1; font-weight: 500 } .triton-note:empty { display: none }
    .triton-unused > :not(.triton-note) { opacity: .4 }
    #triton-live { width: 100%; height: 60vh; border: 0; display: block }`));
  addEventListener("change", event => event.target.name === "scenario" && markUnused());
  new MutationObserver(() => { arrange(); showFigures(); }).observe(document.getElementById("root"),
    {childList: true, subtree: true});
})();
