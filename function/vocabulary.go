package function

// vocabulary is whose names a setting was written in, the higher first.
type vocabulary int

const (
	weir vocabulary = iota
	openfaas
	slimfaas
	vocabularies // how many
)

func (v vocabulary) String() string { return [...]string{"weir", "OpenFaaS", "SlimFaas"}[v] }

const weirPrefix = "weir/"

// setting is one line of docs/LABELS.md, which is generated from these.
type setting struct {
	// keys are the full names, empty where a vocabulary has none.
	keys [vocabularies]string
	// defaults are values that read takes, by the vocabulary that marked the
	// object; empty is what a Spec is without the setting.
	defaults [vocabularies]string
	// read puts a value, which is not empty and has no space around it, into
	// the draft, or says what would have been understood.
	read func(d *draft, v value) (expected string)

	accepts, without, meaning, example string
}

func same(def string) [vocabularies]string { return [vocabularies]string{def, def, def} }

// The keys by which an object is marked; openfaas's may have any value.
var marks = [vocabularies]string{weirPrefix + "function", "faas_function", "SlimFaas/Function"}

const (
	acceptsBool     = "`true` or `false`, in any case, or `1` or `0`"
	acceptsDuration = "a duration such as `90s`, `15m`, `1h30m`, or whole seconds"
)

// settings are in the order in which they are read: type before target.
var settings = []setting{
	{
		keys:     [vocabularies]string{weirPrefix + "min", "com.openfaas.scale.min", "SlimFaas/ReplicasMin"},
		defaults: [vocabularies]string{"1", "1", "0"},
		read:     readMin,
		accepts:  "0 to 10000",
		meaning:  "Fewest replicas while the function is awake. `0` means `zero` true and one replica while awake.",
		example:  "2",
	}, {
		keys:     [vocabularies]string{weirPrefix + "max", "com.openfaas.scale.max", ""},
		defaults: same("20"),
		read:     readMax,
		accepts:  "1 to 10000, at least `min`",
		meaning:  "Most replicas. Without it, `min` where that is more than 20. With `min` the same, the size while awake is fixed.",
		example:  "40",
	}, {
		keys:     [vocabularies]string{weirPrefix + "type", "com.openfaas.scale.type", ""},
		defaults: [vocabularies]string{string(Capacity), string(RPS), string(Capacity)},
		read:     readType,
		accepts:  "`capacity`, `rps`, `cpu`, `queue`",
		meaning:  "The load to scale by: requests at once, requests a second, milli-CPU, or async messages that are ready to run.",
		example:  "capacity",
	}, {
		keys:    [vocabularies]string{weirPrefix + "target", "com.openfaas.scale.target", "SlimFaas/NumberParallelRequestPerPod"},
		read:    readTarget,
		accepts: "more than 0, at most 1000000; with `cpu` also as `500m`",
		without: "`capacity` and `queue`: the pods' own `max_inflight`, else `concurrency`, else 50; `rps`: 50; `cpu`: 500m",
		meaning: "Load that one replica should carry. SlimFaas's name counts with `capacity` and `queue` only.",
		example: "4",
	}, {
		keys:     [vocabularies]string{weirPrefix + "target-proportion", "com.openfaas.scale.target-proportion", ""},
		defaults: same("0.90"),
		read:     readProportion,
		accepts:  "0.01 to 1",
		meaning:  "Share of the target at which more replicas are wanted.",
		example:  "0.7",
	}, {
		keys:    [vocabularies]string{weirPrefix + "zero", "com.openfaas.scale.zero", ""},
		read:    readZero,
		accepts: acceptsBool,
		without: "`false`, but `true` with `min` 0, which is SlimFaas's default",
		meaning: "Put the function to sleep when it is idle.",
		example: "true",
	}, {
		keys:     [vocabularies]string{weirPrefix + "zero-after", "com.openfaas.scale.zero-duration", "SlimFaas/TimeoutSecondBeforeSetReplicasMin"},
		defaults: [vocabularies]string{"15m", "15m", "300"},
		read:     readZeroAfter,
		accepts:  acceptsDuration + ", 1s to 8760h; SlimFaas: whole seconds, of which `0` is `1`",
		meaning:  "How long nothing may run, wait or start before the function sleeps.",
		example:  "5m",
	}, {
		keys:    [vocabularies]string{weirPrefix + "down-window", "com.openfaas.scale.down.window", ""},
		read:    readDownWindow,
		accepts: acceptsDuration + ", at most 1h; `0` or `off`",
		without: "`off`",
		meaning: "Shrink to no less than what was wanted at any moment within this time.",
		example: "5m",
	}, {
		keys:    [vocabularies]string{weirPrefix + "at-start", "", "SlimFaas/ReplicasAtStart"},
		read:    readAtStart,
		accepts: "0 to 10000, at most `max`",
		without: "`min`, at least 1",
		meaning: "Replicas that a wake asks for, if more than `min`.",
		example: "3",
	}, {
		keys:    [vocabularies]string{weirPrefix + "concurrency", "", "SlimFaas/NumberParallelRequestPerPod"},
		read:    readConcurrency,
		accepts: "0 to 1000000; `0` is no limit; SlimFaas: from 1",
		without: "no limit",
		meaning: "Requests at once to a replica that does not run fwatchdog; one that does says its own limit.",
		example: "10",
	}, {
		keys:    [vocabularies]string{weirPrefix + "async-concurrency", "", "SlimFaas/NumberParallelRequest"},
		read:    readAsyncConcurrency,
		accepts: "0 to 1000000; `0` is no limit; SlimFaas: from 1",
		without: "no limit",
		meaning: "Async calls at once to the whole function.",
		example: "10",
	}, {
		keys:     [vocabularies]string{weirPrefix + "retry-attempts", "com.openfaas.retry.attempts", ""},
		defaults: [vocabularies]string{"10", "10", "4"},
		read:     readRetryAttempts,
		accepts:  "1 to 10000; OpenFaaS: `0` is `1`",
		meaning:  "How often an async call is tried, the first time included. Only tries that the handler began are counted. After the last one the call is among the dead letters.",
		example:  "5",
	}, {
		keys:     [vocabularies]string{weirPrefix + "retry-codes", "com.openfaas.retry.codes", ""},
		defaults: same("408,429,500,502,503,504"),
		read:     readRetryCodes,
		accepts:  "statuses from 300 to 599 between commas",
		meaning:  "Answers to an async call after which it is tried again. A call whose answer never came is tried again in any case.",
		example:  "429,503",
	}, {
		keys:     [vocabularies]string{weirPrefix + "retry-min-wait", "com.openfaas.retry.min_wait", ""},
		defaults: [vocabularies]string{"10s", "10s", "2s"},
		read:     readRetryMinWait,
		accepts:  acceptsDuration + ", 0 to 24h",
		meaning:  "Wait before the second try of an async call; it doubles with each further one. The `Retry-After` of a 429 or 503 takes the place of the wait, but is never less than this.",
		example:  "5s",
	}, {
		keys:     [vocabularies]string{weirPrefix + "retry-max-wait", "com.openfaas.retry.max_wait", ""},
		defaults: [vocabularies]string{"120s", "120s", "8s"},
		read:     readRetryMaxWait,
		accepts:  acceptsDuration + ", 0 to 24h, at least `retry-min-wait`",
		meaning:  "Most that the wait between two tries grows to. Without it, `retry-min-wait` where that is more.",
		example:  "1m",
	}, {
		keys:     [vocabularies]string{weirPrefix + "retry-jitter", "com.openfaas.retry.jitter", ""},
		defaults: [vocabularies]string{string(FullJitter), string(FullJitter), string(NoJitter)},
		read:     readRetryJitter,
		accepts:  "`full`, `equal`, `none`, or OpenFaaS's `exponential`, which is `none`",
		meaning:  "How waits are spread: from nothing to the whole, from half to the whole, or not.",
		example:  "equal",
	}, {
		keys:    [vocabularies]string{weirPrefix + "depends-on", "", "SlimFaas/DependsOn"},
		read:    readDependsOn,
		accepts: "up to 64 names of functions, `NAME` or `NAME.NAMESPACE`, between commas or as a JSON list",
		without: "none",
		meaning: "Functions that are woken with this one, and that its callers wait for. One that depends on itself in the end is reported, and one of the links is ignored.",
		example: "mysql,cache",
	}, {
		keys:    [vocabularies]string{weirPrefix + "schedule", "", "SlimFaas/Schedule"},
		read:    readSchedule,
		accepts: "SlimFaas's JSON, see below",
		without: "none",
		meaning: "Times of day at which the function is woken, and idle times that differ by the hour.",
		example: `{"TimeZoneID":"Europe/Paris","Default":{"WakeUp":["07:00"]}}`,
	}, {
		keys:    [vocabularies]string{weirPrefix + "start-with-any", "", "SlimFaas/ReplicasStartAsSoonAsOneFunctionRetrieveARequest"},
		read:    readStartWithAny,
		accepts: acceptsBool,
		without: "`false`",
		meaning: "Wake this function with any function's first call.",
		example: "true",
	}, {
		keys:    [vocabularies]string{weirPrefix + "port", "", ""},
		read:    readPort,
		accepts: "1 to 65535",
		without: "the port named `http`, else the only one, else 8080",
		meaning: "Where the function listens.",
		example: "3000",
	}, {
		keys:    [vocabularies]string{weirPrefix + "metrics-port", "", ""},
		read:    readMetricsPort,
		accepts: "1 to 65535",
		without: "8081",
		meaning: "Where its fwatchdog serves `/metrics`.",
		example: "9081",
	},
}
