import { useState } from "react";
import type { Connection, Status } from "../model/connection";
import { span } from "../model/health";
import { useNow } from "./hooks";

const BACK_SHOWN_MS = 6_000;
const WORDS: Record<Status["state"], string> = {
  connecting: "Connecting", live: "Live", stale: "No database", lost: "Disconnected", token: "Token required",
};

export function ConnectionChip({ status }: { status: Status }) {
  return (
    <p className="chip" role="status" data-state={status.state}>
      <span className="dot" aria-hidden="true" />
      {WORDS[status.state]}
    </p>
  );
}

/** What is wrong and what is done about it, in one calm line. Nothing while all is well. */
export function ConnectionBanner({ status, connection }: { status: Status; connection: Connection }) {
  switch (status.state) {
    case "lost":
      return <Lost status={status} connection={connection} />;
    case "stale":
      return <p className="banner">{status.detail}. The values below are the last known.</p>;
    case "token":
      return <TokenForm detail={status.detail} connection={connection} />;
    case "live":
      return status.back === undefined ? null : <Back back={status.back} />;
    default:
      return null;
  }
}

function Back({ back }: { back: { at: number; after: number } }) {
  const now = useNow(1000);
  if (now - back.at > BACK_SHOWN_MS) return null;
  return <p className="banner good">Connected again after {span(back.after)}; what was missed is filled in.</p>;
}

function Lost({ status, connection }: { status: Extract<Status, { state: "lost" }>; connection: Connection }) {
  const now = useNow(500);
  const wait = status.retryAt - now;
  return (
    <p className="banner">
      <span>
        Connection lost {span(now - status.since)} ago{status.detail === "" ? "" : ` (${status.detail})`}. The values below
        are the last known; what is missed will be filled in.
      </span>
      <span className="soft">{wait > 500 ? `Trying again in ${span(wait)}` : "Trying again"}</span>
      <button type="button" onClick={connection.connect}>Try now</button>
    </p>
  );
}

function TokenForm({ detail, connection }: { detail: string; connection: Connection }) {
  const [token, setToken] = useState("");
  return (
    <form
      className="banner"
      onSubmit={(event) => {
        event.preventDefault();
        connection.authenticate(token);
      }}
    >
      <label htmlFor="token">{detail}</label>
      <input id="token" type="password" autoComplete="off" autoFocus required value={token}
        onChange={(event) => setToken(event.target.value)} />
      <button type="submit">Connect</button>
    </form>
  );
}
