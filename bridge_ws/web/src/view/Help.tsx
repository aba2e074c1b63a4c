import type { RefObject } from "react";

const KEYS: readonly [string, string][] = [
  ["/", "search hosts, or filter processes"],
  ["← ↑ → ↓", "move among hosts, or processes"],
  ["Enter", "open the host, or the process"],
  ["Esc", "clear the field, close, or go back to all hosts"],
  ["t", "processes as a tree, or as a list"],
  ["?", "this help"],
];

export function Help({ dialog }: { dialog: RefObject<HTMLDialogElement | null> }) {
  return (
    <dialog ref={dialog} aria-labelledby="help-title">
      <h2 id="help-title">Keyboard</h2>
      <dl className="keys">
        {KEYS.map(([key, what]) => (
          <div key={key}>
            <dt><kbd>{key}</kbd></dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
      <h2>Reading it</h2>
      <p>
        <strong>Critical</strong>: memory above 97 %, I/O wait above 50 %, or stolen time above 30 %. <strong>Busy</strong>: CPU
        or memory above 90 %, I/O wait above 20 %, or many processes in disk sleep. <strong>Silent</strong>: no sample for four
        intervals. A process’s CPU is of one CPU: two busy threads are 200 %. A filter takes words of command, PID and cgroup,{" "}
        <code>uid:0</code> and <code>state:d</code>.
      </p>
      <p><a href="/licenses.md">Licences of what this page is made of</a></p>
      <form method="dialog"><button type="submit" autoFocus>Close</button></form>
    </dialog>
  );
}
