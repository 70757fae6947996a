/** A small JSON Schema checker: the keywords that the project's published schemas use; an unknown keyword is an error. */
type Schema = Readonly<Record<string, unknown>>;
const IGNORED = new Set(["$schema", "title", "description"]);

/** What does not fit, by path; empty when all does. */
export function violations(schema: Schema, value: unknown, path = "$"): string[] {
  const wrong: string[] = [];
  const fail = (what: string): void => void wrong.push(`${path}: ${what}`);
  for (const [keyword, rule] of Object.entries(schema)) {
    switch (keyword) {
      case "type":
        if (!isOfType(value, rule as string)) fail(`is no ${rule}`);
        break;
      case "const":
        if (value !== rule) fail(`is not ${JSON.stringify(rule)}`);
        break;
      case "enum":
        if (!(rule as unknown[]).includes(value)) fail(`is none of ${JSON.stringify(rule)}`);
        break;
      case "minimum":
        if (typeof value === "number" && value < (rule as number)) fail(`is below ${rule}`);
        break;
      case "maximum":
        if (typeof value === "number" && value > (rule as number)) fail(`is above ${rule}`);
        break;
      case "pattern":
        if (typeof value === "string" && !new RegExp(rule as string).test(value)) fail(`does not match ${rule}`);
        break;
      case "items":
        if (Array.isArray(value)) value.forEach((x, i) => wrong.push(...violations(rule as Schema, x, `${path}[${i}]`)));
        break;
      case "prefixItems":
        if (Array.isArray(value)) (rule as Schema[]).forEach((s, i) => wrong.push(...violations(s, value[i], `${path}[${i}]`)));
        break;
      case "minItems":
        if (Array.isArray(value) && value.length < (rule as number)) fail(`has fewer than ${rule} items`);
        break;
      case "maxItems":
        if (Array.isArray(value) && value.length > (rule as number)) fail(`has more than ${rule} items`);
        break;
      case "required":
        if (isObject(value)) for (const key of rule as string[]) if (!Object.hasOwn(value, key)) fail(`lacks '${key}'`);
        break;
      case "properties":
        if (isObject(value))
          for (const [key, s] of Object.entries(rule as Record<string, Schema>))
            if (Object.hasOwn(value, key)) wrong.push(...violations(s, value[key], `${path}.${key}`));
        break;
      case "additionalProperties": {
        if (!isObject(value)) break;
        const known = Object.keys((schema["properties"] as object | undefined) ?? {});
        for (const key of Object.keys(value).filter((k) => !known.includes(k))) {
          if (rule === false) fail(`has '${key}'`);
          else wrong.push(...violations(rule as Schema, value[key], `${path}.${key}`));
        }
        break;
      }
      case "anyOf":
        if (!(rule as Schema[]).some((s) => violations(s, value, path).length === 0)) fail("fits none of the alternatives");
        break;
      default:
        if (!IGNORED.has(keyword)) throw new Error(`the keyword '${keyword}' is not checked`);
    }
  }
  return wrong;
}

const isObject = (x: unknown): x is Record<string, unknown> => x !== null && typeof x === "object" && !Array.isArray(x);
function isOfType(value: unknown, type: string): boolean {
  switch (type) {
    case "integer":
      return Number.isInteger(value);
    case "array":
      return Array.isArray(value);
    case "object":
      return isObject(value);
    case "null":
      return value === null;
    default:
      return typeof value === type;
  }
}
