import { useEffect, useState, useSyncExternalStore } from "react";
import type { Fleet, Host } from "../model/fleet";

/** Render again when this host has something new. */
export function useHost(fleet: Fleet, host: Host): number {
  return useSyncExternalStore(fleet.subscribe, () => host.version);
}

/** Render again when anything is new. */
export function useFleet(fleet: Fleet): number {
  return useSyncExternalStore(fleet.subscribe, () => fleet.version);
}

/** The time, anew every so many ms. */
export function useNow(every = 1000): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}

/** Keys for the whole page; those typed into a field are the field's, except Escape. */
export function useKeys(handle: (event: KeyboardEvent) => void): void {
  useEffect(() => {
    const listen = (event: KeyboardEvent): void => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      if (document.querySelector("dialog[open]") !== null) return;
      const typing = event.target instanceof HTMLInputElement;
      if (typing && event.key !== "Escape" && event.key !== "Enter" && event.key !== "ArrowDown") return;
      handle(event);
    };
    addEventListener("keydown", listen);
    return () => removeEventListener("keydown", listen);
  });
}

/** Changes whenever the colours do. */
export function useColours(): string {
  const [key, setKey] = useState("");
  useEffect(() => {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const update = (): void => setKey(`${document.documentElement.dataset.theme ?? "auto"} ${dark.matches}`);
    update();
    dark.addEventListener("change", update);
    const observer = new MutationObserver(update);
    observer.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return () => {
      dark.removeEventListener("change", update);
      observer.disconnect();
    };
  }, []);
  return key;
}
