/** The live process table. Only the rows in view are in the document: ten thousand processes scroll like ten. */

import { useEffect, useLayoutEffect, useMemo, useRef, useState, type CSSProperties, type ReactNode } from "react";
import type { Host } from "../model/fleet";
import { STATE_WORDS, bytes, cpuTime, moment, percent, printable, rate } from "../model/format";
import { TEXT, shown, type Column, type Order, type Row, type Shown, type Table } from "../model/table";
import { go } from "./route";
import { useKeys } from "./hooks";

const ROW_PX = 25; // that of style.css
const OVERSCAN = 12;

const HEADINGS: readonly { column: Column; label: string; title: string; wide?: boolean }[] = [
  { column: "pid", label: "PID", title: "Process ID" },
  { column: "command", label: "Command", title: "Command" },
  { column: "cpu", label: "CPU", title: "CPU, of one CPU" },
  { column: "memory", label: "Memory", title: "Resident memory" },
  { column: "read", label: "Read", title: "Read from disk", wide: true },
  { column: "written", label: "Written", title: "Written to disk", wide: true },
  { column: "state", label: "State", title: "State" },
  { column: "threads", label: "Threads", title: "Threads", wide: true },
  { column: "uid", label: "UID", title: "User ID", wide: true },
  { column: "time", label: "CPU time", title: "CPU time since its start", wide: true },
  { column: "cgroup", label: "Cgroup", title: "Control group", wide: true },
];

export function ProcessTable({ host }: { host: Host }) {
  const { table } = host;
  const [filter, setFilter] = useState("");
  const [order, setOrder] = useState<Order>({ column: "cpu", descending: true });
  const [tree, setTree] = useState(false);
  const [folded, setFolded] = useState<ReadonlySet<string>>(new Set());
  const [selected, setSelected] = useState<string | null>(null);
  const [open, setOpen] = useState<string | null>(null);
  const field = useRef<HTMLInputElement>(null);
  const scroller = useRef<HTMLDivElement>(null);
  const { first, end, onScroll } = useWindow(scroller);

  const rows = useMemo(
    () => shown(table, filter, order, tree, folded),
    [table, table.stream, table.seq, table.rows.size, filter, order, tree, folded],
  );
  const from = Math.max(0, Math.min(first, rows.length - 1) - OVERSCAN);
  const visible = rows.slice(from, Math.min(rows.length, end + OVERSCAN));
  const index = rows.findIndex((each) => each.row.id === selected);

  const select = (to: number): void => {
    const next = rows[Math.max(0, Math.min(rows.length - 1, to))];
    if (next === undefined) return;
    setSelected(next.row.id);
    reveal(scroller.current, rows.indexOf(next));
  };
  const fold = (id: string, closed: boolean): void => {
    const next = new Set(folded);
    if (closed) next.add(id);
    else next.delete(id);
    setFolded(next);
  };
  useKeys((event) => {
    const inField = event.target === field.current;
    const onControl = event.target instanceof HTMLButtonElement || event.target instanceof HTMLAnchorElement;
    switch (event.key) {
      case "/":
        field.current?.focus();
        break;
      case "Escape":
        if (open !== null) setOpen(null);
        else if (inField || filter !== "") {
          setFilter("");
          field.current?.blur();
        } else go("#/");
        break;
      case "Enter":
        if (onControl) return;
        if (inField) {
          scroller.current?.focus();
          select(0);
        } else if (selected !== null) setOpen(open === selected ? null : selected);
        break;
      case "ArrowDown":
        if (inField) scroller.current?.focus();
        select(index + 1);
        break;
      case "ArrowUp":
        select(index < 0 ? 0 : index - 1);
        break;
      case "ArrowLeft":
      case "ArrowRight":
        if (!tree || selected === null) return;
        fold(selected, event.key === "ArrowLeft");
        break;
      case "t":
        setTree(!tree);
        break;
      default:
        return;
    }
    event.preventDefault();
  });
  const sort = (column: Column): void => {
    const same = order.column === column;
    setOrder({ column, descending: same ? !order.descending : !TEXT.has(column) && column !== "pid" });
    if (scroller.current !== null) scroller.current.scrollTop = 0;
  };
  const opened = open === null ? undefined : table.rows.get(open);
  const pad = (height: number, key: string): ReactNode =>
    height > 0 ? <tr key={key} role="presentation" aria-hidden="true" className="pad"><td style={{ height }} colSpan={HEADINGS.length} /></tr> : null;
  return (
    <section className="processes" aria-labelledby="processes-title">
      <div className="tools">
        <h2 id="processes-title">Processes</h2>
        <span className="soft count" role="status">
          {filter === "" ? `${table.rows.size}` : `${tree ? "" : `${rows.length} of `}${table.rows.size}`}
        </span>
        <span className="spring" />
        <input ref={field} type="search" placeholder="Filter  /" aria-label="Filter processes" value={filter}
          onChange={(event) => setFilter(event.target.value)} />
        <button type="button" className="toggle" aria-pressed={tree} onClick={() => setTree(!tree)}>Tree</button>
      </div>
      {open !== null && <Detail row={opened} table={table} close={() => setOpen(null)} />}
      <div className="scroll" ref={scroller} onScroll={onScroll} tabIndex={0} role="region" aria-label="Process table">
        <table role={tree ? "treegrid" : "grid"} aria-rowcount={rows.length + 1} aria-label="Processes">
          <thead>
            <tr aria-rowindex={1}>
              {HEADINGS.map(({ column, label, title, wide }) => (
                <th key={column} scope="col" className={`${column}${wide ? " wide" : ""}`}
                  aria-sort={order.column === column ? (order.descending ? "descending" : "ascending") : "none"}>
                  <button type="button" title={title} onClick={() => sort(column)}>
                    {label}<span className="arrow" aria-hidden="true">{order.column === column ? (order.descending ? "↓" : "↑") : ""}</span>
                  </button>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {pad(from * ROW_PX, "above")}
            {visible.map((each, offset) => (
              <Line key={each.row.id} shown={each} table={table} number={from + offset} tree={tree}
                folded={folded.has(each.row.id)} selected={each.row.id === selected}
                choose={() => {
                  setSelected(each.row.id);
                  setOpen(open === each.row.id ? null : each.row.id);
                }}
                fold={() => fold(each.row.id, !folded.has(each.row.id))} />
            ))}
            {pad((rows.length - from - visible.length) * ROW_PX, "below")}
          </tbody>
        </table>
        {rows.length === 0 && (
          <p className="empty">{table.rows.size === 0 ? "Waiting for the process table." : "No process matches the filter."}</p>
        )}
      </div>
    </section>
  );
}

interface LineProps {
  shown: Shown;
  table: Table;
  number: number;
  tree: boolean;
  folded: boolean;
  selected: boolean;
  choose: () => void;
  fold: () => void;
}

function Line({ shown: { row, depth, children }, table, number, tree, folded, selected, choose, fold }: LineProps) {
  const { process } = row;
  const command = printable(process.command);
  const cgroup = process.cgroup === null ? "–" : printable(process.cgroup);
  const cpu = table.current(row, "cpu");
  const read = table.current(row, "read");
  const written = table.current(row, "written");
  const level = tree ? { "aria-level": depth + 1, ...(children > 0 ? { "aria-expanded": !folded } : {}) } : {};
  return (
    <tr aria-rowindex={number + 2} aria-selected={selected} onClick={choose} {...level}>
      <td className="pid">{process.pid}</td>
      <td className="command" title={command}>
        {tree && (
          <span className="indent" style={{ paddingLeft: Math.min(depth, 24) * 14 }}>
            {children > 0
              ? (
                <button type="button" className="fold" tabIndex={-1} aria-label={folded ? "Unfold" : "Fold"}
                  onClick={(event) => {
                    event.stopPropagation();
                    fold();
                  }}>
                  {folded ? "▸" : "▾"}
                </button>
              )
              : <span className="fold" />}
          </span>
        )}
        {command}
      </td>
      <td className="cpu" data-zero={zero(cpu)} style={bar(cpu)}>{percent(cpu)}</td>
      <td className="memory">{bytes(process.rss_bytes)}</td>
      <td className="read wide" data-zero={zero(read)}>{rate(read)}</td>
      <td className="written wide" data-zero={zero(written)}>{rate(written)}</td>
      <td className="state" data-state={process.state}>{STATE_WORDS[process.state] ?? process.state}</td>
      <td className="threads wide">{process.threads}</td>
      <td className="uid wide">{process.uid}</td>
      <td className="time wide">{cpuTime(process.cpu_ns)}</td>
      <td className="cgroup wide" title={cgroup}>{cgroup}</td>
    </tr>
  );
}

const zero = (value: number | null): true | undefined => (value === null || value < 0.0005 ? true : undefined);

/** A bar behind the figure: all of one CPU fills the cell. */
const bar = (cpu: number | null): CSSProperties => ({ backgroundSize: `${Math.min(100, 100 * (cpu !== null && cpu >= 0.02 ? cpu : 0)).toFixed(0)}% 100%` });

function Detail({ row, table, close }: { row: Row | undefined; table: Table; close: () => void }) {
  if (row === undefined) {
    return (
      <aside className="detail" aria-label="Process">
        <p>This process has ended.</p>
        <button type="button" onClick={close}>Close</button>
      </aside>
    );
  }
  const { process } = row;
  const facts: [string, string][] = [
    ["Parent", String(process.ppid)],
    ["User ID", String(process.uid)],
    ["Started", moment(process.started_at)],
    ["State", STATE_WORDS[process.state] ?? process.state],
    ["CPU", percent(table.current(row, "cpu"))],
    ["CPU time", `${cpuTime(process.cpu_ns)}, ${cpuTime(process.user_ns)} of it in user mode`],
    ["Resident", bytes(process.rss_bytes)],
    ["Virtual", bytes(process.virtual_bytes)],
    ["Swap", process.swap_bytes === null ? "–" : bytes(process.swap_bytes)],
    ["Read", process.read_bytes === null ? "–" : bytes(process.read_bytes)],
    ["Written", process.written_bytes === null ? "–" : bytes(process.written_bytes)],
    ["Threads", String(process.threads)],
    ["Faults", `${process.minor_faults} minor, ${process.major_faults} major`],
    ["Switches", process.voluntary_switches === null ? "–" : `${process.voluntary_switches} voluntary, ${process.involuntary_switches ?? "–"} not`],
    ["Cgroup", process.cgroup === null ? "–" : printable(process.cgroup)],
  ];
  return (
    <aside className="detail" aria-label={`Process ${process.pid}`}>
      <h3><span>{printable(process.command)}</span> <span className="soft">{process.pid}</span></h3>
      <button type="button" onClick={close}>Close</button>
      <dl>{facts.map(([label, text]) => <div key={label}><dt>{label}</dt><dd>{text}</dd></div>)}</dl>
    </aside>
  );
}

/** Which rows are in view. */
function useWindow(scroller: React.RefObject<HTMLDivElement | null>): { first: number; end: number; onScroll: () => void } {
  const [range, setRange] = useState({ first: 0, end: 40 });
  const measure = (): void => {
    const node = scroller.current;
    if (node === null) return;
    const first = Math.floor(node.scrollTop / ROW_PX);
    const end = first + Math.ceil(node.clientHeight / ROW_PX);
    setRange((known) => (known.first === first && known.end === end ? known : { first, end }));
  };
  useLayoutEffect(measure, []);
  useEffect(() => {
    const node = scroller.current;
    if (node === null) return undefined;
    const observer = new ResizeObserver(measure);
    observer.observe(node);
    return () => observer.disconnect();
  }, []);
  return { ...range, onScroll: measure };
}

/** Scroll so far that a row is in view, below the heading. */
function reveal(node: HTMLDivElement | null, index: number): void {
  if (node === null) return;
  const top = index * ROW_PX;
  const room = node.clientHeight - 2 * ROW_PX;
  if (top < node.scrollTop) node.scrollTop = top;
  else if (top > node.scrollTop + room) node.scrollTop = top - room;
}
