import { useEffect, useMemo } from "react";
import type { Connection } from "../model/connection";
import { shares, type CpuPoint, type Fleet, type Host, type RamPoint, type StatesPoint } from "../model/fleet";
import { bytes, clock, percent } from "../model/format";
import { columns } from "../model/history";
import { health, span } from "../model/health";
import { STATES } from "../model/wire";
import { Chart, type Line } from "./Chart";
import { ProcessTable } from "./ProcessTable";
import { useFleet, useNow } from "./hooks";

export function HostPage({ name, fleet, connection }: { name: string; fleet: Fleet; connection: Connection }) {
  useFleet(fleet);
  const host = fleet.hosts.get(name);
  const known = host !== undefined;
  useEffect(() => {
    if (!known) return undefined;
    connection.watch(name);
    return () => connection.unwatch(name);
  }, [connection, name, known]);
  if (host === undefined) {
    return (
      <div className="empty">
        <h1>{name}</h1>
        <p>{connection.status.state === "live" ? "No host of this name has sent anything lately." : "Waiting for the bridge."}</p>
        <p><a href="#/">All hosts</a></p>
      </div>
    );
  }
  return <KnownHost host={host} />;
}

function KnownHost({ host }: { host: Host }) {
  return (
    <>
      <Summary host={host} />
      <section className="charts" aria-label="The last 10 minutes">
        <CpuChart host={host} version={version(host.cpu)} />
        <MemoryChart host={host} version={version(host.ram)} />
        <StatesChart host={host} version={version(host.states)} />
      </section>
      <ProcessTable host={host} />
    </>
  );
}

/** What a chart depends on: points are only added, and the newest tells them apart. */
function version(history: { all(): readonly { at: number; seq: number }[] }): string {
  const points = history.all();
  const newest = points[points.length - 1];
  return `${points.length} ${points[0]?.at} ${newest?.at} ${newest?.seq}`;
}

function Summary({ host }: { host: Host }) {
  const now = useNow();
  const state = health(host, now);
  const { latestCpu: cpu, latestRam: ram } = host;
  const states = host.states.newest;
  const facts: [string, string][] = [
    ["CPU", percent(host.shares?.busy)],
    ["Load", cpu === null ? "–" : [cpu.load1_milli, cpu.load5_milli, cpu.load15_milli].map((load) => (load / 1000).toFixed(2)).join("  ")],
    ["CPUs", cpu === null ? "–" : String(cpu.cores.length)],
    ["Memory", ram === null ? "–" : `${bytes(ram.total_bytes - ram.available_bytes)} of ${bytes(ram.total_bytes)}`],
    ["Swap", ram === null ? "–" : ram.swap_total_bytes === 0 ? "none" : `${bytes(ram.swap_total_bytes - ram.swap_free_bytes)} of ${bytes(ram.swap_total_bytes)}`],
    ["Processes", states === undefined ? "–" : `${states.total}`],
    ["Threads", states === undefined ? "–" : `${states.threads}`],
  ];
  return (
    <div className="host-head" data-host={host.name} data-sampled-at={host.sampledAt}>
      <div className="host-title">
        <a className="back" href="#/" aria-label="All hosts">←</a>
        <h1>{host.name}</h1>
        <span className="level" data-level={state.level}>{state.word}</span>
        {state.reasons.length > 0 && <span className="reasons" data-level={state.level}>{state.reasons.join(", ")}</span>}
        <span className="spring" />
        <span className="soft as-of">{host.sampledAt > 0 ? `${clock(host.sampledAt)} · ${span(now - host.heardAt)} ago` : ""}</span>
      </div>
      <dl className="facts">
        {facts.map(([label, value]) => <div key={label}><dt>{label}</dt><dd>{value}</dd></div>)}
      </dl>
    </div>
  );
}

const whole = (value: number): string => percent(value);
const CPU_LINES: readonly Line[] = [
  { label: "user", colour: "c-user", show: whole },
  { label: "system", colour: "c-system", show: whole },
  { label: "irq", colour: "c-irq", show: whole },
  { label: "I/O wait", colour: "c-iowait", show: whole },
  { label: "steal", colour: "c-steal", show: whole },
];
const MEMORY_LINES: readonly Line[] = [
  { label: "used", colour: "c-user", show: bytes },
  { label: "reclaimable", colour: "c-cache", show: bytes },
  { label: "swap", colour: "c-iowait", show: bytes },
];
const count = (value: number): string => String(value);
const STATE_LINES: readonly Line[] = [
  { label: "running", colour: "c-user", show: count },
  { label: "disk sleep", colour: "c-iowait", show: count },
  { label: "zombie", colour: "c-steal", show: count },
  { label: "stopped", colour: "c-irq", show: count },
];

function CpuChart({ host, version: of }: { host: Host; version: string }) {
  const data = useMemo(() => columns<CpuPoint>(host.cpu, 5, (point, before) => {
    const now = shares(point, before);
    return now === null ? [null, null, null, null, null] : [now.user, now.system, now.irq, now.iowait, now.steal];
  }), [host, of]);
  return <Chart title="CPU" lines={CPU_LINES} data={data} stacked top={1} tick={(value) => percent(value, 0)} />;
}

function MemoryChart({ host, version: of }: { host: Host; version: string }) {
  const data = useMemo(
    () => columns<RamPoint>(host.ram, 3, (point) => [point.used, point.cached, point.swapUsed]),
    [host, of],
  );
  const total = host.ram.newest?.total;
  return <Chart title="Memory" lines={MEMORY_LINES} data={data} tick={bytes} binary {...(total === undefined ? {} : { top: total })} />;
}

function StatesChart({ host, version: of }: { host: Host; version: string }) {
  const data = useMemo(() => columns<StatesPoint>(host.states, 4, ({ counts }) => [
    counts.running, counts.disk_sleep, counts.zombie, counts.stopped + counts.traced,
  ]), [host, of]);
  const newest = host.states.newest;
  const others = newest === undefined ? "" : STATES
    .filter((state) => newest.counts[state] > 0 && ["sleeping", "idle", "parked", "dead", "other"].includes(state))
    .map((state) => `${newest.counts[state]} ${state.replace("_", " ")}`).join(", ");
  return (
    <Chart title={others === "" ? "Process states" : `Process states · ${others}`} lines={STATE_LINES} data={data}
      tick={(value) => (Number.isInteger(value) ? String(value) : "")} />
  );
}
