// What the page shows of a load test.

const SPLIT = {queue_us: "queue", compute_input_us: "input", compute_infer_us: "inference", compute_output_us: "output"};

// One unit for all times of a table: milliseconds if the highest of these is at least 10 ms.
function timeColumns(rows, keys, times) {
  const isLong = Math.max(0, ...rows.flatMap(row => keys.filter(key => key !== "max").map(key => times(row)[key] ?? 0))) >= 10000;
  const say = value => figure(value == null ? null : value / (isLong ? 1000 : 1));
  return Object.fromEntries(keys.map(key => [key, {unit: isLong ? "ms" : "µs", say, cell: row => say(times(row)[key])}]));
}
function latencyColumns(rows, keys) {
  return Object.entries(timeColumns(rows, keys, row => row.latency_us)).map(([key, {unit, cell}]) => [`${key} (${unit})`, cell]);
}
const stageColumn = ["stage", stage => text(stage.name), true];

// The 95 % interval of the figure above it. That of p99 is of all requests: failed ones may make theirs another p99 than that of the answers.
const between = (ends, say) => ends ? `<br><span class="between">${say(ends[0])} to ${say(ends[1])}</span>` : "";
const p99Interval = stage => stage.p99_of_requests_us === stage.latency_us.p99 ? stage.intervals.p99_us : null;
const INTERVALS = `<p class="soft">Below a figure is its 95 % interval. It knows only the noise within this run; two runs differ by more.</p>`;

const VERDICTS = {within: "kept", missed: `<span class="bad">missed</span>`, undecided: "too close to call"};

function stages(rows) {
  const latencies = Object.entries(timeColumns(rows, ["p50", "p90", "p95", "p99", "max"], row => row.latency_us));
  const made = table("Stages", rows, [stageColumn, ["users", s => s.rate_asked == null && !s.late_us ? number(s.concurrency) : "–"], ["requests/s asked for", s => number(s.rate_asked)],
    ["requests/s", s => rows.some(one => one.rows !== one.requests) ? number(s.throughput_requests_per_s) : "–"], ["rows/s", s => number(s.throughput_rows_per_s) + between(s.intervals.throughput_rows_per_s, number)],
    ...latencies.map(([key, {unit, say, cell}]) => [`${key} (${unit})`, s => cell(s) + (key === "p99" ? between(p99Interval(s), say) : "")]), ["goodput", s => s.goodput == null ? "–" : `${Math.floor(1000 * s.goodput) / 10} %`],
    ["p99 limit", s => VERDICTS[s.verdict ?? {true: "within", false: "missed"}[s.keeps_p99]] ?? "–"],
    ["failures", s => counts(s.failures)], ["wrong", s => counts(s.wrong)], ["unchecked", s => s.unchecked ? number(s.unchecked) : "–"]]);
  return made + (rows.some(s => s.intervals.throughput_rows_per_s || p99Interval(s)) ? INTERVALS : "");
}
const isLate = stage => stage.client_saturated && stage.client_busy_share <= .9;
function client(rows) {
  return table("Load generator", rows, [stageColumn, ["measured (s)", s => figure(s.seconds)], ["answers", s => number(s.requests)], ["stable", s => s.stable ? "yes" : "no"],
    ["processes", s => s.client_processes], ["CPU per answer (µs)", s => figure(s.client_cpu_us_per_request)],
    ["busy", s => `<span class="${s.client_saturated && !isLate(s) ? "bad" : ""}">${share(s.client_busy_share)}</span>`],
    ["waiting for a CPU", s => share(s.client_waiting_share)], ["sent late, p99 (ms)", s => s.late_us?.p99 == null ? "–" : `<span class="${isLate(s) ? "bad" : ""}">${figure(s.late_us.p99 / 1000)}</span>`]]);
}
function server(rows) {
  const known = rows.filter(s => s.server).flatMap(s => [s, ...s.server.models.map(m => ({name: `${s.name}: ${m.name} version ${m.version}`, server: m}))]), times = timeColumns(known, Object.keys(SPLIT), s => s.server);
  return table("On the server, per request", known, [stageColumn, ["counted for (s)", s => known.some(one => one.server_missing) ? figure(s.server_seconds) : "–"],
    ...Object.entries(SPLIT).map(([key, name]) => [`${name} (${times[key].unit})`, times[key].cell]),
    ["executions", s => number(s.server.executions)], ["rows per execution", s => number(s.server.mean_batch)], ["GPU use", s => share(s.server.gpu_utilization)],
    ["GPU memory (MiB)", s => number(s.server.gpu_memory_used_bytes == null ? null : s.server.gpu_memory_used_bytes / 2 ** 20)], ["CPU use", s => share(s.server.cpu_utilization)]]);
}
function versions(rows) {
  const all = rows.flatMap(s => s.versions.map(version => ({...version, stage: s.name}))), names = new Set(all.filter(v => v.version).map(v => `${v.model}/${v.version}`));
  return names.size < 2 ? "" : table("Models and versions", all, [["stage", v => text(v.stage), true], ["model", v => text(v.model), true], ["version", v => text(v.version ?? "–")],
    ["answers", v => number(v.requests)], ...latencyColumns(all, ["p50", "p90", "p99"]), ["failures", v => counts(v.failures)], ["wrong", v => counts(v.wrong)]]);
}
function sequences(rows) {
  return table("Sequences", rows.filter(s => s.sequences), [stageColumn, ["completed", s => number(s.sequences.completed)],
    ["failed", s => number(s.sequences.failed)], ["ended early", s => number(s.sequences.ended_early)]]);
}
const messages = said => table("First message of each kind", Object.entries(said), [["kind", ([kind]) => text(kind), true], ["message", ([, message]) => text(message), true]]);

function head(result) {
  const run = result.run, verdict = result.verdict;
  const models = run.models.map(m => m.name + (m.version ? ` version ${m.version}` : "")).join(", ");
  const state = !shown.over ? "running" : verdict.passed ? `<span class="good">passed</span>` : `<span class="bad">failed</span>`;
  return `<h1>${text(models)} over ${text(run.protocol)}: ${state}</h1>
    <p class="soft">${text(run.server)}, scenario ${text(run.scenario)}, rows per request: ${run.rows_per_request.map(r => number(r.rows)).join(", ")}, started ${text(run.started)}.
    ${counted(result.totals.requests, "answer")}, ${run.checked ? `${number(sum(result.totals.wrong))} of them wrong, ${number(result.totals.unchecked)} unchecked`
      : "<b>answers not checked</b>"}, ${counted(sum(result.totals.failures), "failed request")}.</p>
    ${shown.held ? `<p>Passed: ${text(shown.held)}.</p>` : ""}<div class="bad">${list(shown.over ? verdict.reasons : [])}</div>${knee(result)}
    ${list(result.search?.summary ?? [])}${list(result.notes)}`;
}
function knee(result) {
  const k = result.knee;
  if (!k || result.stages.length < 2) return "";
  const within = k.best_within_p99 ? ` Best within the p99 limit: ${text(k.best_within_p99.stage)} with ${number(k.best_within_p99.throughput_rows_per_s)} rows/s.` : "";
  return `<p>Knee: <b>${text(k.stage)}</b> with ${number(k.throughput_rows_per_s)} rows/s; the best throughput was ${number(k.best_throughput_rows_per_s)} rows/s.${within}</p>`;
}
function tables(result) {
  const rows = result.stages;
  return stages(rows) + sequences(rows) + server(rows) + versions(rows) + client(rows) + messages(result.messages);
}
