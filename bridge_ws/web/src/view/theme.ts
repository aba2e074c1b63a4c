/** Dark or light: as the system says, unless the user chose; the choice stays in this browser. */

export type Theme = "auto" | "light" | "dark";
export const THEMES: readonly Theme[] = ["auto", "light", "dark"];
const KEY = "latido.theme";

export function chosenTheme(): Theme {
  try {
    const stored = localStorage.getItem(KEY) as Theme | null;
    return stored !== null && THEMES.includes(stored) ? stored : "auto";
  } catch {
    return "auto"; // storage is switched off
  }
}

export function applyTheme(theme: Theme = chosenTheme()): void {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // it lasts as long as the page, then
  }
}
