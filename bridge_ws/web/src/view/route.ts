/** Where the page is: `#/` the fleet, `#/host/NAME` a host. The address can be sent to a colleague. */

import { useSyncExternalStore } from "react";

export const hostHref = (name: string): string => `#/host/${encodeURIComponent(name)}`;

export function hostOf(hash: string): string | null {
  const match = /^#\/host\/(.+)$/.exec(hash);
  if (match === null) return null;
  try {
    return decodeURIComponent(match[1]!);
  } catch {
    return null; // a stray %
  }
}

export const go = (hash: string): void => {
  location.hash = hash;
};

export function useRoute(): string | null {
  return hostOf(
    useSyncExternalStore(
      (listener) => {
        addEventListener("hashchange", listener);
        return () => removeEventListener("hashchange", listener);
      },
      () => location.hash,
    ),
  );
}
