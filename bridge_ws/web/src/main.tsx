import { createRoot } from "react-dom/client";
import "uplot/dist/uPlot.min.css";
import "./style.css";
import { Connection } from "./model/connection";
import { Fleet } from "./model/fleet";
import { App } from "./view/App";
import { applyTheme } from "./view/theme";

applyTheme();
const fleet = new Fleet();
const connection = new Connection(fleet);
createRoot(document.getElementById("page")!).render(<App fleet={fleet} connection={connection} />);
connection.connect();
