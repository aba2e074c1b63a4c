import { memo, useEffect, useMemo, useRef, useState } from "react";
import type { Connection } from "../model/connection";
import type { Fleet, Host } from "../model/fleet";
import { SEVERITY, health, type Level } from "../model/health";
import { bytes, percent, printable } from "../model/format";
import { STATES } from "../model/wire";
import { useFleet, useHost, useKeys, useNow } from "./hooks";
import { hostHref } from "./route";
import { Sparkline } from "./Sparkline";

type Sort = "name" | "health" | "cpu" | "memory" | "processes";
const SORTS: readonly [Sort, string][] = [
  ["name", "name"], ["health", "health"], ["cpu", "CPU"], ["memory", "memory"], ["processes", "processes"],
];
/** Tiles change places this often at most, so that nobody clicks on what just moved away. */
const SETTLE_MS = 3_000;
/** With more hosts, sparklines grow as samples come, rather than cost the bridge so many queries. */
const MOST_FILLED = 24;

export function FleetPage({ fleet, connection }: { fleet: Fleet; connection: Connection }) {
  const [search, setSearch] = useState("");
  const [sort, setSort] = useState<Sort>("name");
  const field = useRef<HTMLInputElement>(null);
  const grid = useRef<HTMLUListElement>(null);
  useFleet(fleet);
  const names = [...fleet.hosts.keys()];
  const now = useNow();
  const settled = Math.floor(now / SETTLE_MS);
  // Sorted anew when hosts come, the user asks, or some seconds went by; not with every sample.
  const sorted = useMemo(() => order(fleet, sort, Date.now()), [fleet, sort, names.length, settled]);
  const words = search.toLowerCase().split(/\s+/).filter((word) => word !== "");
  const hosts = sorted.filter((host) => words.every((word) => host.name.toLowerCase().includes(word)));
  useEffect(() => {
    if (names.length <= MOST_FILLED) for (const name of fleet.hosts.keys()) connection.want(name, ["cpu"]);
  }, [fleet, connection, names.length]);
  useKeys((event) => {
    if (event.key === "/") {
      event.preventDefault();
      field.current?.focus();
    } else if (event.key === "Escape") {
      setSearch("");
      field.current?.blur();
    } else if (event.key === "Enter" && event.target === field.current) {
      if (hosts[0] !== undefined) location.hash = hostHref(hosts[0].name);
    } else if (event.key.startsWith("Arrow") && grid.current !== null) {
      if (event.target instanceof HTMLSelectElement) return;
      event.preventDefault();
      move(grid.current, event.key);
    }
  });
  const levels = tally(fleet, now);
  return (
    <>
      <div className="tools">
        <h1>{names.length === 1 ? "1 host" : `${names.length} hosts`}</h1>
        <p className="tally">
          {(["critical", "busy", "silent", "ok"] as const).filter((level) => levels[level] > 0).map((level) => (
            <span key={level} className="level" data-level={level}>{levels[level]} {level === "ok" ? "OK" : level}</span>
          ))}
        </p>
        <p className="soft totals">{totals(fleet)}</p>
        <span className="spring" />
        <input ref={field} type="search" placeholder="Search hosts  /" aria-label="Search hosts" value={search}
          onChange={(event) => setSearch(event.target.value)} />
        <label className="select">
          <span>Sort by</span>
          <select value={sort} onChange={(event) => setSort(event.target.value as Sort)}>
            {SORTS.map(([value, label]) => <option key={value} value={value}>{label}</option>)}
          </select>
        </label>
      </div>
      {hosts.length === 0 && (
        <p className="empty">{names.length === 0 ? "No host has sent anything lately." : `No host’s name has “${search}”.`}</p>
      )}
      <ul className="fleet" ref={grid} aria-label="Hosts">
        {hosts.map((host) => {
          const { level, word, reasons } = health(host, now);
          return <Tile key={host.name} fleet={fleet} host={host} level={level} word={word} reasons={reasons.join(", ")} />;
        })}
      </ul>
    </>
  );
}

interface TileProps {
  fleet: Fleet;
  host: Host;
  level: Level;
  word: string;
  reasons: string;
}

/** Drawn again when its host has something new, or its health changes: not with every tick of the clock. */
const Tile = memo(function Tile({ fleet, host, level, word, reasons }: TileProps) {
  useHost(fleet, host);
  const states = host.states.newest;
  const { busiest } = host.table;
  return (
    <li>
      <a className="tile" href={hostHref(host.name)} data-level={level} data-host={host.name} data-sampled-at={host.sampledAt}>
        <span className="tile-head">
          <span className="tile-name">{host.name}</span>
          <span className="level" data-level={level}>{word}</span>
        </span>
        <Spark host={host} version={host.cpu.newest?.seq ?? -1} filled={host.cpu.all().length} />
        <span className="figures">
          <Figure label="CPU" value={percent(host.shares?.busy, 0)} share={host.shares?.busy ?? 0} />
          <Figure label="Memory" value={percent(host.memory, 0)} share={host.memory ?? 0} />
        </span>
        <span className="tile-foot">
          {reasons !== ""
            ? <span className="reasons" data-level={level}>{reasons}</span>
            : <span>{states === undefined ? "–" : summary(states.counts)}</span>}
          <span>{states === undefined ? "" : `${states.total} processes`}</span>
        </span>
        <span className="tile-foot busiest">
          <span>{busiest === null ? "–" : printable(busiest.command)}</span>
          <span>{busiest === null ? "" : percent(busiest.cpu, 0)}</span>
        </span>
      </a>
    </li>
  );
});

const Spark = memo(function Spark({ host }: { host: Host; version: number; filled: number }) {
  return <Sparkline host={host} />;
});

function Figure({ label, value, share }: { label: string; value: string; share: number }) {
  return (
    <span className="figure">
      <span className="soft">{label}</span> <b>{value}</b>
      <span className="track" aria-hidden="true"><span style={{ transform: `scaleX(${share})` }} /></span>
    </span>
  );
}

function summary(counts: Record<(typeof STATES)[number], number>): string {
  const shown = [`${counts.running} running`];
  if (counts.disk_sleep > 0) shown.push(`${counts.disk_sleep} in disk sleep`);
  if (counts.zombie > 0) shown.push(`${counts.zombie} zombie`);
  if (counts.stopped + counts.traced > 0) shown.push(`${counts.stopped + counts.traced} stopped`);
  return shown.join(", ");
}

function order(fleet: Fleet, sort: Sort, now: number): Host[] {
  const key = (host: Host): number => {
    switch (sort) {
      case "name": return 0;
      case "health": return -SEVERITY[health(host, now).level];
      case "cpu": return -(host.shares?.busy ?? -1);
      case "memory": return -(host.memory ?? -1);
      case "processes": return -(host.states.newest?.total ?? -1);
    }
  };
  return [...fleet.hosts.values()].sort((a, b) => key(a) - key(b) || NAMES.compare(a.name, b.name));
}

/** web-2 comes before web-10. */
const NAMES = new Intl.Collator("en", { numeric: true });

/** What all hosts have and use, together. */
function totals(fleet: Fleet): string {
  let cpus = 0;
  let busy = 0;
  let used = 0;
  let memory = 0;
  let processes = 0;
  for (const host of fleet.hosts.values()) {
    const cores = host.latestCpu?.cores.length ?? 0;
    if (host.shares !== null) {
      cpus += cores;
      busy += host.shares.busy * cores;
    }
    used += host.ram.newest?.used ?? 0;
    memory += host.ram.newest?.total ?? 0;
    processes += host.states.newest?.total ?? 0;
  }
  const parts: string[] = [];
  if (cpus > 0) parts.push(`${busy.toFixed(1)} of ${cpus} CPUs`);
  if (memory > 0) parts.push(`${bytes(used)} of ${bytes(memory)}`);
  if (processes > 0) parts.push(`${processes} processes`);
  return parts.join(" · ");
}

function tally(fleet: Fleet, now: number): Record<Level, number> {
  const levels: Record<Level, number> = { ok: 0, busy: 0, critical: 0, silent: 0 };
  for (const host of fleet.hosts.values()) levels[health(host, now).level] += 1;
  return levels;
}

/** Move the focus to the tile beside, above or below: a row is as many tiles as the window has room for. */
function move(grid: HTMLElement, key: string): void {
  const tiles = [...grid.querySelectorAll<HTMLElement>("a.tile")];
  const first = tiles[0];
  if (first === undefined) return;
  const at = tiles.indexOf(document.activeElement as HTMLElement);
  if (at < 0) {
    first.focus();
    return;
  }
  const inRow = tiles.filter((tile) => tile.offsetTop === first.offsetTop).length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -inRow, ArrowDown: inRow }[key] ?? 0;
  tiles[Math.max(0, Math.min(tiles.length - 1, at + step))]?.focus();
}
