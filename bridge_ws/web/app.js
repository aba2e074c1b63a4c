// The live page: what the frames of /ws say, and nothing else. Every text from a host is set as textContent.

const TOP = 25;
const STATES = ["running", "sleeping", "disk_sleep", "stopped", "traced", "zombie", "dead", "idle", "parked", "other"];
const STATE_LETTERS = {
  R: "running", S: "sleeping", D: "disk sleep", T: "stopped", t: "traced", Z: "zombie", X: "dead", I: "idle", P: "parked",
};
const CPU_MODES = ["user_ns", "nice_ns", "system_ns", "idle_ns", "iowait_ns", "irq_ns", "softirq_ns", "steal_ns"];
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 15_000;
const PAINT_MS = 200;
const POLICY_VIOLATION = 1008; // RFC 6455, section 7.4.1

/** By host name: what is newest. A host whose spool was wiped comes back as another stream and starts anew. */
const hosts = new Map();
let selected = decodeURIComponent(location.hash.slice(1)) || null;
let token = null;
let socket = null;
let attempt = 0;
let dirty = false;

const element = (id) => document.getElementById(id);

function setText(id, text) {
  const node = element(id);
  if (node.textContent !== text) node.textContent = text;
}

function setStatus(state, text) {
  element("status").dataset.state = state;
  setText("status", text);
}

// --- the feed ---

function connect() {
  setStatus("connecting", attempt === 0 ? "Connecting…" : "Reconnecting…");
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/ws`, ["latido.v1"]);
  socket.addEventListener("message", (event) => receive(JSON.parse(event.data)));
  socket.addEventListener("close", (event) => lost(event));
}

function lost(event) {
  const wait = Math.random() * Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** attempt) + 100;
  attempt += 1;
  if (event.code === POLICY_VIOLATION && token !== null) {
    token = null; // it was wrong: not to be sent again
    element("token-form").hidden = false;
  }
  if (!element("token-form").hidden) {
    setStatus("lost", event.reason || "A token is required");
    return; // the form connects again
  }
  const why = event.reason ? `: ${event.reason}` : "";
  setStatus("lost", `Disconnected${why}. The values below are old; trying again.`);
  setTimeout(connect, wait);
}

function receive(frame) {
  switch (frame.type) {
    case "hello":
      attempt = 0;
      element("token-form").hidden = true;
      setStatus("live", "Live");
      for (const name of frame.hosts) hostOf(name);
      break;
    case "snapshot":
    case "sample":
      setStatus("live", "Live");
      take(frame);
      break;
    case "gap":
      break; // the snapshot that follows has the newest; a history would mark the hole
    case "error":
      if (frame.code === "token-required") askToken();
      else if (frame.code === "database-unavailable") setStatus("lost", "The bridge lost its database; the values below are old");
      break;
  }
  dirty = true;
}

function askToken() {
  if (token !== null) {
    socket.send(JSON.stringify({ type: "authenticate", token }));
    return;
  }
  element("token-form").hidden = false;
  setStatus("lost", "A token is required");
  element("token").focus();
}

function hostOf(name) {
  if (!hosts.has(name)) hosts.set(name, { feeds: {}, cpu: null, table: new Map(), shares: new Map() });
  return hosts.get(name);
}

function take(frame) {
  const host = hostOf(frame.host);
  const before = host.feeds[frame.feed];
  const same = before !== undefined && before.stream === frame.stream;
  if (frame.late) return; // a snapshot follows where it changes the table
  if (same && frame.sample.seq < before.sample.seq) return;
  if (before !== undefined && !same && frame.sample.sampled_at < before.sample.sampled_at) return; // the wiped spool's last
  host.feeds[frame.feed] = frame;
  if (frame.feed === "cpu") host.cpu = same ? cpuShares(before.sample, frame.sample) ?? host.cpu : null;
  if (frame.feed === "procesos") takeProcesses(host, frame, same ? before.sample : null);
}

function cpuShares(before, after) {
  const deltas = Object.fromEntries(CPU_MODES.map((mode) => [mode, Math.max(0, after[mode] - before[mode])]));
  const total = Object.values(deltas).reduce((sum, value) => sum + value, 0);
  if (total === 0) return null; // the same sample again, after a reconnect
  const idle = deltas.idle_ns + deltas.iowait_ns;
  return {
    busy: (total - idle) / total,
    user: (deltas.user_ns + deltas.nice_ns) / total,
    system: (deltas.system_ns + deltas.irq_ns + deltas.softirq_ns) / total,
    iowait: deltas.iowait_ns / total,
    steal: deltas.steal_ns / total,
  };
}

function takeProcesses(host, frame, before) {
  const sample = frame.sample;
  const identity = (process) => `${process.pid}.${process.start_ticks}`;
  if (sample.keyframe) host.table.clear();
  for (const process of sample.processes) host.table.set(identity(process), process);
  for (const process of sample.exited) host.table.delete(identity(process));
  if (frame.type === "snapshot") return; // its deltas are of several intervals: the shares come with the next sample
  // A process that is not in the sample did nothing; one that ended is gone from the table.
  host.shares.clear();
  const elapsed = before === null ? 0 : (sample.sampled_at - before.sampled_at) * 1e6;
  if (elapsed <= 0) return;
  for (const process of sample.processes) host.shares.set(identity(process), process.cpu_delta_ns / elapsed);
}

// --- the view ---

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${value.toFixed(unit === 0 || value >= 100 ? 0 : 1)} ${units[unit]}`;
}

const percent = (share) => `${(share * 100).toFixed(1)} %`;

function cpuTime(nanoseconds) {
  const seconds = nanoseconds / 1e9;
  if (seconds < 60) return `${seconds.toFixed(2)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

function paint() {
  const names = [...hosts.keys()].sort();
  if (selected === null || !hosts.has(selected)) selected = names[0] ?? null;
  paintHosts(names);
  element("empty").hidden = selected !== null;
  element("host").hidden = selected === null;
  if (selected === null) return;
  const host = hosts.get(selected);
  setText("host-name", selected);
  paintMemory(host.feeds.ram?.sample);
  paintCpu(host.feeds.cpu?.sample, host.cpu);
  paintProcesses(host);
  const moments = Object.values(host.feeds).map((frame) => frame.sample.sampled_at);
  setText("age", moments.length ? `Newest sample: ${new Date(Math.max(...moments)).toLocaleString()}` : "");
}

function paintHosts(names) {
  const nav = element("hosts");
  const shown = [...nav.children].map((button) => button.textContent);
  if (shown.join("\n") !== names.join("\n")) {
    nav.replaceChildren(...names.map((name) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.addEventListener("click", () => {
        selected = name;
        history.replaceState(null, "", `#${encodeURIComponent(name)}`);
        paint();
      });
      return button;
    }));
  }
  for (const button of nav.children) button.setAttribute("aria-pressed", String(button.textContent === selected));
}

function paintMemory(sample) {
  const used = sample ? sample.total_bytes - sample.available_bytes : 0;
  const share = sample && sample.total_bytes > 0 ? used / sample.total_bytes : 0;
  setText("memory-value", sample ? percent(share) : "–");
  element("memory-meter").value = share;
  setText("memory-detail", sample ? [
    `${bytes(used)} of ${bytes(sample.total_bytes)} used`,
    sample.swap_total_bytes > 0
      ? `swap ${bytes(sample.swap_total_bytes - sample.swap_free_bytes)} of ${bytes(sample.swap_total_bytes)}`
      : "no swap",
  ].join(" · ") : "");
}

function paintCpu(sample, shares) {
  setText("cpu-value", shares ? percent(shares.busy) : "–");
  element("cpu-meter").value = shares ? shares.busy : 0;
  setText("cpu-detail", shares
    ? `user ${percent(shares.user)} · system ${percent(shares.system)} · I/O wait ${percent(shares.iowait)}`
      + (shares.steal > 0 ? ` · steal ${percent(shares.steal)}` : "")
    : sample ? "with the next sample" : "");
  setText("load-value", sample ? (sample.load1_milli / 1000).toFixed(2) : "–");
  setText("load-detail", sample
    ? `5 min ${(sample.load5_milli / 1000).toFixed(2)} · 15 min ${(sample.load15_milli / 1000).toFixed(2)} · ${sample.cores.length} CPUs`
    : "");
}

function paintProcesses(host) {
  const sample = host.feeds.procesos?.sample;
  setText("total-value", sample ? String(sample.total) : "–");
  setText("states", sample ? [
    ...STATES.filter((state) => sample[state] > 0).map((state) => `${sample[state]} ${state.replace("_", " ")}`),
    `${sample.threads} threads`,
  ].map((part) => part.replaceAll(" ", "\u00a0")).join(" · ") : ""); // no line ends between a number and its word
  const share = (entry) => host.shares.get(entry[0]) ?? 0;
  const top = [...host.table].sort((a, b) => share(b) - share(a) || b[1].cpu_ns - a[1].cpu_ns).slice(0, TOP);
  const known = host.shares.size > 0;
  element("top").replaceChildren(...top.map((entry) => row(entry[1], known ? percent(share(entry)) : "–")));
}

function row(process, share) {
  const cells = [
    [String(process.pid), "number"],
    [process.command, "command"],
    [share, "number"],
    [cpuTime(process.cpu_ns), "number"],
    [bytes(process.rss_bytes), "number"],
    [String(process.threads), "number"],
    [STATE_LETTERS[process.state] ?? process.state, ""],
    [String(process.uid), "number"],
  ];
  const line = document.createElement("tr");
  for (const [text, name] of cells) {
    const cell = document.createElement("td");
    cell.textContent = text;
    if (name) cell.className = name;
    line.append(cell);
  }
  return line;
}

element("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = element("token").value;
  element("token").value = "";
  element("token-form").hidden = true;
  if (socket.readyState === WebSocket.OPEN) askToken();
  else connect();
});

// Frames come in bursts; the page is painted a few times a second at most.
setInterval(() => {
  if (!dirty || document.hidden) return;
  dirty = false;
  paint();
}, PAINT_MS);
connect();
