import { useEffect, useRef, useState } from "react";
import type { Connection } from "../model/connection";
import type { Fleet } from "../model/fleet";
import { ConnectionBanner, ConnectionChip } from "./ConnectionState";
import { FleetPage } from "./FleetPage";
import { Help } from "./Help";
import { HostPage } from "./HostPage";
import { useFleet, useKeys } from "./hooks";
import { useRoute } from "./route";
import { THEMES, applyTheme, chosenTheme } from "./theme";

export function App({ fleet, connection }: { fleet: Fleet; connection: Connection }) {
  const route = useRoute();
  const help = useRef<HTMLDialogElement>(null);
  const [theme, setTheme] = useState(chosenTheme);
  useFleet(fleet);
  useEffect(() => {
    document.title = route === null ? "Latido" : `${route} · Latido`;
    scrollTo(0, 0);
  }, [route]);
  useKeys((event) => {
    if (event.key === "?") {
      event.preventDefault();
      help.current?.showModal();
    }
  });
  const change = (): void => {
    const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]!;
    applyTheme(next);
    setTheme(next);
  };
  const { status } = connection;
  const dim = status.state === "lost" || status.state === "stale";
  return (
    <>
      <header className="bar">
        <a className="brand" href="#/" aria-label="Latido: all hosts">
          <img src="/icon.svg" alt="" width={20} height={20} />
          <span>Latido</span>
        </a>
        <ConnectionChip status={status} />
        <span className="spring" />
        <button type="button" className="quiet" onClick={change} title="Change it">
          Theme: {theme}
        </button>
        <button type="button" className="quiet" onClick={() => help.current?.showModal()} aria-label="Keyboard and help">
          ?
        </button>
      </header>
      <section aria-label="Connection"><ConnectionBanner status={status} connection={connection} /></section>
      <main data-dim={dim || undefined}>
        {route === null
          ? <FleetPage fleet={fleet} connection={connection} />
          : <HostPage key={route} name={route} fleet={fleet} connection={connection} />}
      </main>
      <Help dialog={help} />
    </>
  );
}
