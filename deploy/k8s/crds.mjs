// Whether the Prometheus operator's own schemas accept what is for it.
//
//     node crds.mjs NODE_MODULES FOLDER     reads FOLDER's *.monitoring.json, lists of documents

import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, folder] = process.argv.slice(2);
const from = join(resolve(modules), "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1");
let wrong = false;
for (const file of readdirSync(folder).filter((name) => name.endsWith(".monitoring.json"))) {
  for (const document of JSON.parse(readFileSync(join(folder, file)))) {
    const { [document.kind]: Model } = await import(pathToFileURL(join(from, `${document.kind}.js`)));
    try {
      new Model(document).validate();
    } catch (error) {
      console.error(`${file}: ${document.kind}: ${error.message}`);
      wrong = true;
    }
  }
}
process.exit(wrong ? 1 : 0);
