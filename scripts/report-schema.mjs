// docs/report.schema.json: the report's shape as JSON Schema (draft 2020-12), made of the schema that loading checks it with.
import { build } from "./build.mjs";

export const file = "docs/report.schema.json";

/** A valibot schema as JSON Schema. Throws for kinds that the report does not use. */
export function jsonSchema(schema) {
  const pipe = schema.pipe ?? [schema];
  const out = base(pipe[0]);
  for (const action of pipe.slice(1)) {
    if (action.type === "safe_integer" || action.type === "integer") out.type = "integer";
    else if (action.type === "min_value") out.minimum = action.requirement;
    else if (action.type === "max_value") out.maximum = action.requirement;
    else if (action.type === "regex") out.pattern = action.requirement.source;
    else if (action.type === "min_length") out.minItems = action.requirement;
    else if (action.type !== "finite") throw new Error(`no JSON Schema for the check '${action.type}'`);
  }
  return out;
}

function base(schema) {
  switch (schema.type) {
    case "string":
    case "number":
    case "boolean":
      return { type: schema.type };
    case "unknown":
      return {};
    case "null":
      return { type: "null" };
    case "literal":
      return { const: schema.literal };
    case "picklist":
      return { enum: [...schema.options] };
    case "array":
      return { type: "array", items: jsonSchema(schema.item) };
    case "tuple":
    case "strict_tuple":
      return { type: "array", prefixItems: schema.items.map(jsonSchema), minItems: schema.items.length, maxItems: schema.items.length };
    case "record":
      return { type: "object", additionalProperties: jsonSchema(schema.value) };
    case "union":
      return { anyOf: schema.options.map(jsonSchema) };
    case "nullable":
      return { anyOf: [jsonSchema(schema.wrapped), { type: "null" }] };
    case "strict_object":
    case "object": {
      const entries = Object.entries(schema.entries);
      return {
        type: "object",
        properties: Object.fromEntries(entries.map(([key, s]) => [key, jsonSchema(s.type === "optional" ? s.wrapped : s)])),
        required: entries.filter(([, s]) => s.type !== "optional").map(([key]) => key),
        ...(schema.type === "strict_object" ? { additionalProperties: false } : {}),
      };
    }
    default:
      throw new Error(`no JSON Schema for the type '${schema.type}'`);
  }
}

/** The file's text for a report schema. */
export const text = (schema, name) =>
  `${JSON.stringify({ $schema: "https://json-schema.org/draft/2020-12/schema", title: name, ...jsonSchema(schema) }, null, 1)}\n`;

export async function render() {
  build();
  const { reportSchema, REPORT_SCHEMA } = await import("../dist/report/data.js");
  return text(reportSchema, REPORT_SCHEMA);
}
