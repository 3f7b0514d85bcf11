// Checks a dashboard against Grafana's own types: the classic Dashboard, and each panel's options against those of its
// kind. Fields that Grafana does not know are refused. Says nothing when all is well; exits 1 otherwise.
//
//   NODE_PARTS=.parts/node node deploy/grafana/check.mjs deploy/grafana/tidegate.json
//
// Needs @grafana/schema, ts-json-schema-generator and ajv in $NODE_PARTS; scripts/install puts them into .parts/node.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(path.resolve(process.env.NODE_PARTS ?? ".parts/node"), "here.js"));
const { createGenerator } = require("ts-json-schema-generator");
const { Ajv } = require("ajv");

const schema = path.join(path.dirname(require.resolve("@grafana/schema/package.json")), "dist/types");
const types = (file, type) =>
  createGenerator({ path: path.join(schema, file), type, skipTypeCheck: true, additionalProperties: false })
    .createSchema(type);

const faults = [];
const ajv = new Ajv({ strict: false, allErrors: true });
const check = (what, shape, value) => {
  const valid = ajv.compile(shape);
  if (valid(value)) return;
  for (const { instancePath, message, params } of valid.errors) {
    faults.push(`${what}${instancePath}: ${message} ${JSON.stringify(params)}`);
  }
};

const dashboard = JSON.parse(readFileSync(process.argv[2], "utf8"));

// The data source's own fields of an annotation, which the types leave open: `target` is any query, and these say how
// Prometheus' answer is shown.
const shown = structuredClone(dashboard);
for (const annotation of shown.annotations.list) {
  for (const field of ["target", "titleFormat", "textFormat", "tagKeys"]) delete annotation[field];
}
const whole = types("raw/dashboard/x/types.gen.d.ts", "Dashboard");
// A list of panels or rows: the first branch that fits need not be the one that is meant, so each is looked at below.
check("dashboard", whole, { ...shown, panels: [] });
const part = (name) => ({ ...whole, $ref: `#/definitions/${name}` });

const options = new Map();
const ids = new Set();
for (const panel of dashboard.panels) {
  const what = `panel ${panel.id} "${panel.title}"`;
  if (ids.has(panel.id)) faults.push(`${what}: the id is another's`);
  ids.add(panel.id);
  check(what, part(panel.type === "row" ? "RowPanel" : "Panel"), panel);
  const { x, y, w, h } = panel.gridPos;
  if (x + w > 24) faults.push(`${what}: wider than the page`);
  for (const other of dashboard.panels.filter((o) => o.id < panel.id)) {
    const o = other.gridPos;
    if (x < o.x + o.w && o.x < x + w && y < o.y + o.h && o.y < y + h) faults.push(`${what}: over panel ${other.id}`);
  }
  if (panel.type === "row") continue;
  for (const field of ["title", "datasource", "targets"]) if (!panel[field]) faults.push(`${what}: no ${field}`);
  if (!panel.fieldConfig?.defaults?.unit) faults.push(`${what}: no unit`);

  const folder = panel.type.replaceAll("-", "");
  const file = `raw/composable/${folder}/panelcfg/x/types.gen.d.ts`;
  if (!options.has(folder)) {
    const of = types(file, "Options");
    // Grafana fills in what is left out.
    delete of.definitions.Options.required;
    options.set(folder, of);
  }
  const own = structuredClone(options.get(folder));
  for (const definition of Object.values(own.definitions)) delete definition.required;
  check(`${what} options`, own, panel.options ?? {});
}

for (const fault of faults) console.error(fault);
process.exit(faults.length ? 1 : 0);
