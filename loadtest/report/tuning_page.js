// What the page shows of a tuning: texts and tables of texts, which were made in Python.

function head(result) {
  return `<h1>${text(result.title)}</h1><p class="${result.tone}">${text(result.why)}</p>
    ${result.applied ? `<p>Applied: ${text(result.applied)}.</p>` : ""}${list(result.notes)}`;
}
function diff(lines) {
  const line = one => `<span class="${one.startsWith("+") ? "good" : one.startsWith("-") ? "bad" : "soft"}">${text(one)}</span>`;
  return lines ? `<h2>What the best settings change in config.pbtxt</h2><pre>${lines.trimEnd().split("\n").map(line).join("\n")}</pre>` : "";
}
function tables(result) {
  const shown = ({title, heads, rows}) => table(title, rows, heads.map(([name, isText], place) => [name, row => text(row[place]), isText]));
  const facts = table("What the figures hold for", result.facts, [["", fact => text(fact[0]), true], ["", fact => text(fact[1]), true]]);
  return `${shown(result.tables[0])}${diff(result.diff)}${shown(result.tables[1])}${facts}`;
}
