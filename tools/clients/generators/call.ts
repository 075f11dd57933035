// One call of each kind with the types that openapi-typescript has made, which must hold for the compiler: node call.js URL.
import createClient from "openapi-fetch";
import type { operations, paths } from "./generated.js";

const client = createClient<paths>({ baseUrl: process.argv[2] });
const event = { userId: "u-2", eventType: "EVENT_TYPE_USER", source: "generated" } as const;
const { data: taken } = await client.POST("/v1/events", { body: event });
const { data: message } = await client.POST("/ingest", { body: { source: "generated", data: "hello" } });
const { data: summary } = await client.GET("/v1/analytics/summary");
type Summary = operations["getAnalyticsSummary"]["responses"]["200"]["content"]["application/json"];
const named: Summary | undefined = summary;
console.log(taken?.success, message?.status, typeof named?.totalEvents);
