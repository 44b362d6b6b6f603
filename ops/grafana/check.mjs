// Check the dashboards against Grafana's types, and run their transformations with Grafana's code, without a Grafana server:
//   npm --prefix ops/grafana ci --ignore-scripts && npm --prefix ops/grafana run check
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const require = createRequire(import.meta.url);
const here = fileURLToPath(new URL(".", import.meta.url));
const boards = readdirSync(`${here}dashboards`).map((name) => [name, JSON.parse(readFileSync(`${here}dashboards/${name}`))]);
const PANELS = { timeseries: "TimeSeries", stat: "Stat", barchart: "BarChart", table: "Table" };
const complaints = [];

// Enumerations as the strings that JSON holds.
const PLAIN = `type Plain<T> = unknown extends T ? any : T extends string ? (string extends T ? string : \`\${T}\`)
  : T extends number ? (number extends T ? number : T | (\`\${T}\` extends \`\${infer N extends number}\` ? N : never))
  : T extends (infer U)[] ? Plain<U>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;`;

function checkTypes() {
  const schema = "@grafana/schema/dist";
  const lines = [`import type { Dashboard } from "./node_modules/${schema}/types/raw/dashboard/x/dashboard_types.gen";`, PLAIN];
  for (const [kind, name] of Object.entries(PANELS))
    lines.push(`import type * as ${kind} from "./node_modules/${schema}/esm/raw/composable/${kind}/panelcfg/x/${name}PanelCfg_types.gen";`);
  for (const [name, board] of boards) {
    const variables = board.templating.list.map(({ auto, auto_count, auto_min, ...rest }) => rest); // an interval's: not in the schema
    const marks = board.annotations.list.map(({ expr, ...rest }) => rest); // a query of Prometheus: not in the schema
    const whole = JSON.stringify({ ...board, annotations: { list: marks }, templating: { list: variables } });
    lines.push(`/* ${name} */ export const _${lines.length}: Plain<Dashboard> = ${whole};`);
    for (const { type, title, options, fieldConfig } of board.panels.filter((panel) => panel.type !== "row")) {
      const given = [["Options", options ?? {}]];
      if (type !== "stat") given.push(["FieldConfig", fieldConfig.defaults.custom ?? {}]);
      for (const [of, value] of given)
        lines.push(`/* ${name}: ${title} */ export const _${lines.length}: Partial<Plain<${type}.${of}>> = ${JSON.stringify(value)};`);
    }
  }
  const typescript = require("typescript");
  const file = `${here}check.ts`;
  const text = lines.join("\n");
  writeFileSync(file, text);
  const { ModuleKind, ModuleResolutionKind, ScriptTarget } = typescript;
  const settings = { strict: true, noEmit: true, skipLibCheck: true, target: ScriptTarget.ES2022, module: ModuleKind.ESNext };
  const program = typescript.createProgram([file], { ...settings, moduleResolution: ModuleResolutionKind.Bundler });
  for (const { start, messageText } of typescript.getPreEmitDiagnostics(program)) {
    const line = text.split("\n")[text.slice(0, start).split("\n").length - 1];
    complaints.push(`${line.match(/\/\* (.*) \*\//)[1]}: ${typescript.flattenDiagnosticMessageText(messageText, " ")}`);
  }
  rmSync(file);
}

function inBrowser() {
  const { window } = new (require("jsdom").JSDOM)("", { url: "http://localhost/", pretendToBeVisual: true });
  for (const name of Object.getOwnPropertyNames(window)) if (!(name in globalThis)) globalThis[name] = window[name];
  window.matchMedia = globalThis.matchMedia = () => ({ matches: false, addEventListener() {} });
  Object.assign(globalThis, { window, self: window, document: window.document, Path2D: class {} });
}

// What the Prometheus data source makes of an instant query in the format "table", here for two values of each label, or for those
// that stand in `values`.
function answer(grafana, { refId, expr }, several, values = {}) {
  const labels = expr.match(/by \(([^)]*)\)/)[1].split(", ");
  const taken = (label) => values[label] ?? ["a", "b"].map((value) => `${label} ${value}`);
  const rows = labels.reduce((made, label) => made.flatMap((row) => taken(label).map((value) => [...row, value])), [[]]);
  const { string, number, time } = grafana.FieldType;
  const fields = labels.map((name, place) => ({ name, type: string, values: rows.map((row) => row[place]) }));
  const value = { name: several ? `Value #${refId}` : "Value", type: number, values: rows.map((_, place) => place) };
  return grafana.toDataFrame({ refId, fields: [{ name: "Time", type: time, values: rows.map(() => 0) }, ...fields, value] });
}

async function checkTransformations() {
  inBrowser();
  const grafana = require("@grafana/data");
  const { firstValueFrom } = require("rxjs");
  const known = [...new Map(Object.values(grafana.standardTransformers).map((one) => [one.id, one])).values()];
  grafana.standardTransformersRegistry.setInit(() => known.map((one) => ({ id: one.id, name: one.name, transformation: one })));
  for (const [name, board] of boards)
    for (const panel of board.panels.filter(({ type }) => type === "barchart" || type === "table")) {
      const overridden = panel.fieldConfig.overrides.map(({ matcher }) => matcher.options);
      const columns = panel.type === "barchart" && overridden.length ? { [panel.transformations[0].options.columnField]: overridden } : {};
      const asked = panel.targets.map((target) => answer(grafana, target, panel.targets.length > 1, columns));
      const frames = await firstValueFrom(grafana.transformDataFrame(panel.transformations, asked));
      const shown = frames[0].fields.map((field) => grafana.getFieldDisplayName(field, frames[0], frames));
      const kinds = frames[0].fields.map(({ type }) => type);
      const numbers = shown.filter((_, place) => kinds[place] === "number");
      const right =
        frames.length === 1 && new Set(shown).size === shown.length && kinds[0] === "string" && numbers.length > 0 &&
        overridden.every((column) => numbers.includes(column)) && !shown.some((column) => /^(Time|Value)/.test(column)) && (panel.type === "table" || kinds.indexOf("string", 1) < 0);
      console.log(`${name}: ${panel.title}: ${shown.join(" | ")}`);
      if (!right) complaints.push(`${name}: ${panel.title}: ${shown.join(" | ")} (${kinds.join(", ")})`);
    }
}

checkTypes();
await checkTransformations();
for (const complaint of complaints) console.error(complaint);
console.log(`${boards.length} dashboards, ${complaints.length} complaints`);
process.exit(complaints.length ? 1 : 0);
