import { defineConfig } from "vite";

// Names carry a hash of what they hold, so that the bridge can let browsers keep them for ever. The built files must be
// the same bytes wherever they are built: a test compares.
export default defineConfig({
  base: "/",
  build: {
    target: "es2022",
    assetsInlineLimit: 0, // data: is not in the Content-Security-Policy
    modulePreload: false,
    reportCompressedSize: false,
    license: { fileName: "licenses.md" }, // of what is in the bundle
  },
  server: { proxy: { "/ws": { target: "ws://127.0.0.1:10113", ws: true } } },
});
