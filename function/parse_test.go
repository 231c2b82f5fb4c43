package function

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// marked is a source with the mark of a vocabulary and some annotations.
func marked(by vocabulary, annotations map[string]string) Sources {
	src := Sources{Kind: KindDeployment, Namespace: "shop", Name: "cart", Annotations: annotations}
	switch by {
	case openfaas:
		src.Labels = map[string]string{"faas_function": "cart"}
	default:
		src.TemplateAnnotations = map[string]string{marks[by]: "true"}
	}
	return src
}

func weirRetry() Retry {
	return Retry{Attempts: 10, Codes: []int{408, 429, 500, 502, 503, 504}, MinWait: 10 * time.Second, MaxWait: 2 * time.Minute, Jitter: FullJitter}
}

// slimRetry is a first try and three more, 2, 4 and 8 seconds later.
func slimRetry() Retry {
	r := weirRetry()
	r.Attempts, r.MinWait, r.MaxWait, r.Jitter = 4, 2*time.Second, 8*time.Second, NoJitter
	return r
}

// TestParseRows reads every line of the table in every vocabulary.
func TestParseRows(t *testing.T) {
	weirs := func(change func(*Spec)) Spec {
		s := Spec{Min: 1, Max: 20, Type: Capacity, Proportion: 0.9, ZeroAfter: 15 * time.Minute, Retry: weirRetry()}
		change(&s)
		return s
	}
	faas := func(change func(*Spec)) Spec {
		return weirs(func(s *Spec) { s.Type = RPS; change(s) })
	}
	slim := func(change func(*Spec)) Spec {
		return weirs(func(s *Spec) { s.Zero = true; s.ZeroAfter = 300 * time.Second; s.Retry = slimRetry(); change(s) })
	}
	same := func(*Spec) {}
	for _, row := range []struct {
		by         vocabulary
		key, value string
		want       Spec
	}{
		{weir, "", "", weirs(same)},
		{openfaas, "", "", faas(same)},
		{slimfaas, "", "", slim(same)},

		{weir, "weir/min", "3", weirs(func(s *Spec) { s.Min = 3 })},
		{weir, "weir/min", "0", weirs(func(s *Spec) { s.Zero = true })},
		{weir, "weir/min", "30", weirs(func(s *Spec) { s.Min, s.Max = 30, 30 })},
		{openfaas, "com.openfaas.scale.min", "2", faas(func(s *Spec) { s.Min = 2 })},
		{slimfaas, "SlimFaas/ReplicasMin", "0", slim(same)},
		{slimfaas, "SlimFaas/ReplicasMin", " 2 ", slim(func(s *Spec) { s.Min, s.Zero = 2, false })},
		{slimfaas, "weir/min", "2", slim(func(s *Spec) { s.Min, s.Zero = 2, false })},

		{weir, "weir/max", "7", weirs(func(s *Spec) { s.Max = 7 })},
		{openfaas, "com.openfaas.scale.max", "40", faas(func(s *Spec) { s.Max = 40 })},

		{weir, "weir/type", "rps", weirs(func(s *Spec) { s.Type = RPS })},
		{weir, "weir/type", "CPU", weirs(func(s *Spec) { s.Type = CPU })},
		{weir, "weir/type", "queue", weirs(func(s *Spec) { s.Type = Queue })},
		{openfaas, "com.openfaas.scale.type", "capacity", faas(func(s *Spec) { s.Type = Capacity })},

		{weir, "weir/target", "4.5", weirs(func(s *Spec) { s.Target = 4.5 })},
		{openfaas, "com.openfaas.scale.target", "100", faas(func(s *Spec) { s.Target = 100 })},
		{slimfaas, "SlimFaas/NumberParallelRequestPerPod", "10", slim(func(s *Spec) { s.Target, s.Concurrency = 10, 10 })},

		{weir, "weir/target-proportion", "1", weirs(func(s *Spec) { s.Proportion = 1 })},
		{openfaas, "com.openfaas.scale.target-proportion", "0.7", faas(func(s *Spec) { s.Proportion = 0.7 })},

		{weir, "weir/zero", "True", weirs(func(s *Spec) { s.Zero = true })},
		{openfaas, "com.openfaas.scale.zero", "true", faas(func(s *Spec) { s.Zero = true })},
		{slimfaas, "weir/zero", "false", slim(func(s *Spec) { s.Zero = false })},

		{weir, "weir/zero-after", "5m", weirs(func(s *Spec) { s.ZeroAfter = 5 * time.Minute })},
		{weir, "weir/zero-after", "30", weirs(func(s *Spec) { s.ZeroAfter = 30 * time.Second })},
		{openfaas, "com.openfaas.scale.zero-duration", "10m30s", faas(func(s *Spec) { s.ZeroAfter = 10*time.Minute + 30*time.Second })},
		{slimfaas, "SlimFaas/TimeoutSecondBeforeSetReplicasMin", "60", slim(func(s *Spec) { s.ZeroAfter = time.Minute })},
		{slimfaas, "SlimFaas/TimeoutSecondBeforeSetReplicasMin", "0", slim(func(s *Spec) { s.ZeroAfter = time.Second })},

		{weir, "weir/down-window", "300s", weirs(func(s *Spec) { s.DownWindow = 5 * time.Minute })},
		{weir, "weir/down-window", "off", weirs(same)},
		{openfaas, "com.openfaas.scale.down.window", "5m", faas(func(s *Spec) { s.DownWindow = 5 * time.Minute })},

		{weir, "weir/at-start", "3", weirs(func(s *Spec) { s.AtStart = 3 })},
		{slimfaas, "SlimFaas/ReplicasAtStart", "2", slim(func(s *Spec) { s.AtStart = 2 })},

		{weir, "weir/concurrency", "8", weirs(func(s *Spec) { s.Concurrency = 8 })},
		{weir, "weir/concurrency", "0", weirs(same)},
		{weir, "weir/async-concurrency", "9", weirs(func(s *Spec) { s.AsyncConcurrency = 9 })},
		{slimfaas, "SlimFaas/NumberParallelRequest", "10", slim(func(s *Spec) { s.AsyncConcurrency = 10 })},

		{weir, "weir/retry-attempts", "1", weirs(func(s *Spec) { s.Retry.Attempts = 1 })},
		{openfaas, "com.openfaas.retry.attempts", "100", faas(func(s *Spec) { s.Retry.Attempts = 100 })},
		{openfaas, "com.openfaas.retry.attempts", "0", faas(func(s *Spec) { s.Retry.Attempts = 1 })},
		{slimfaas, "weir/retry-attempts", "7", slim(func(s *Spec) { s.Retry.Attempts = 7 })},
		{weir, "weir/retry-codes", "503, 429,,503,", weirs(func(s *Spec) { s.Retry.Codes = []int{429, 503} })},
		{openfaas, "com.openfaas.retry.codes", "429", faas(func(s *Spec) { s.Retry.Codes = []int{429} })},
		{openfaas, "com.openfaas.retry.codes", "429,502,500,504,408", faas(func(s *Spec) { s.Retry.Codes = []int{408, 429, 500, 502, 504} })},
		{slimfaas, "com.openfaas.retry.codes", "599,300", slim(func(s *Spec) { s.Retry.Codes = []int{300, 599} })},
		{weir, "weir/retry-min-wait", "5", weirs(func(s *Spec) { s.Retry.MinWait = 5 * time.Second })},
		{weir, "weir/retry-min-wait", "250ms", weirs(func(s *Spec) { s.Retry.MinWait = 250 * time.Millisecond })},
		{weir, "weir/retry-min-wait", "0", weirs(func(s *Spec) { s.Retry.MinWait = 0 })},
		{openfaas, "com.openfaas.retry.min_wait", "0s", faas(func(s *Spec) { s.Retry.MinWait = 0 })},
		{openfaas, "com.openfaas.retry.min_wait", "5m", faas(func(s *Spec) { s.Retry.MinWait, s.Retry.MaxWait = 5*time.Minute, 5*time.Minute })},
		{slimfaas, "weir/retry-min-wait", "10s", slim(func(s *Spec) { s.Retry.MinWait, s.Retry.MaxWait = 10*time.Second, 10*time.Second })},
		{weir, "weir/retry-max-wait", "24h", weirs(func(s *Spec) { s.Retry.MaxWait = 24 * time.Hour })},
		{openfaas, "com.openfaas.retry.max_wait", "1m", faas(func(s *Spec) { s.Retry.MaxWait = time.Minute })},
		{openfaas, "com.openfaas.retry.max_wait", "3s", faas(func(s *Spec) { s.Retry.MinWait, s.Retry.MaxWait = 3*time.Second, 3*time.Second })},
		{slimfaas, "weir/retry-max-wait", "1s", slim(func(s *Spec) { s.Retry.MinWait, s.Retry.MaxWait = time.Second, time.Second })},
		{weir, "weir/retry-jitter", "Equal", weirs(func(s *Spec) { s.Retry.Jitter = EqualJitter })},
		{openfaas, "com.openfaas.retry.jitter", "full", faas(same)},
		{openfaas, "com.openfaas.retry.jitter", "exponential", faas(func(s *Spec) { s.Retry.Jitter = NoJitter })},
		{slimfaas, "weir/retry-jitter", "full", slim(func(s *Spec) { s.Retry.Jitter = FullJitter })},

		{weir, "weir/depends-on", "db, cache.infra,,db", weirs(func(s *Spec) {
			s.DependsOn, s.DependsOnKey = []Ref{{"db", "shop"}, {"cache", "infra"}}, "weir/depends-on"
		})},
		{slimfaas, "SlimFaas/DependsOn", "mysql,fibonacci2", slim(func(s *Spec) {
			s.DependsOn, s.DependsOnKey = []Ref{{"mysql", "shop"}, {"fibonacci2", "shop"}}, "SlimFaas/DependsOn"
		})},
		{slimfaas, "SlimFaas/DependsOn", `["a-b","c"]`, slim(func(s *Spec) {
			s.DependsOn, s.DependsOnKey = []Ref{{"a-b", "shop"}, {"c", "shop"}}, "SlimFaas/DependsOn"
		})},

		{weir, "weir/start-with-any", "TRUE", weirs(func(s *Spec) { s.StartWithAny = true })},
		{slimfaas, "SlimFaas/ReplicasStartAsSoonAsOneFunctionRetrieveARequest", "true", slim(func(s *Spec) { s.StartWithAny = true })},
		{weir, "weir/port", "3000", weirs(func(s *Spec) { s.Port = 3000 })},
		{weir, "weir/metrics-port", "9081", weirs(func(s *Spec) { s.MetricsPort = 9081 })},

		// Known to the others, not to weir.
		{openfaas, "com.openfaas.scale.factor", "20", faas(same)},
		{openfaas, "com.openfaas.health.http.path", "/healthz", faas(same)},
		{slimfaas, "SlimFaas/DefaultVisibility", "Public", slim(same)},
		{slimfaas, "SlimFaas/SubscribeEvents", "reload", slim(same)},
		// Empty is unset.
		{weir, "weir/min", "  ", weirs(same)},
	} {
		annotations := map[string]string{}
		if row.key != "" {
			annotations[row.key] = row.value
		}
		got, is, faults := Parse(marked(row.by, annotations))
		if !is || len(faults) > 0 || !reflect.DeepEqual(got, row.want) {
			t.Errorf("%s with %s=%q:\n got %+v, marked %t, faults %v\nwant %+v", row.by, row.key, row.value, got, is, faults, row.want)
		}
	}
}

func TestParseSchedule(t *testing.T) {
	// As SlimFaas's documentation has it, folded by YAML.
	text := "{ \"TimeZoneID\": \"Europe/Paris\", \"Default\": { \"WakeUp\": [\"13:30\", \"7:00\", \"07:00\"],\n" +
		`"ScaleDownTimeout": [ { "Time": "21:00", "Value": 10 }, { "Time": "07:00", "Value": 20 } ] } }`
	for _, key := range []string{"SlimFaas/Schedule", "weir/schedule"} {
		spec, _, faults := Parse(marked(slimfaas, map[string]string{key: text}))
		s := spec.Schedule
		if len(faults) > 0 || s == nil {
			t.Fatalf("%s: %v", key, faults)
		}
		wakes := []TimeOfDay{TimeOfDay(7 * time.Hour), TimeOfDay(13*time.Hour + 30*time.Minute)}
		idle := []IdleFrom{{TimeOfDay(7 * time.Hour), 20 * time.Second}, {TimeOfDay(21 * time.Hour), 10 * time.Second}}
		if s.Location.String() != "Europe/Paris" || !slices.Equal(s.WakeUp, wakes) || !slices.Equal(s.IdleFrom, idle) {
			t.Errorf("%s: %+v", key, s)
		}
	}
	for key, zone := range map[string]string{"SlimFaas/Schedule": "GB", "weir/schedule": "UTC"} {
		spec, _, faults := Parse(marked(weir, map[string]string{key: `{}`}))
		if len(faults) > 0 || spec.Schedule.Location.String() != zone {
			t.Errorf("%s without a zone is in %v (%v), want %s", key, spec.Schedule, faults, zone)
		}
	}
}

// TestParseSeeds reads what the manifests of the two worlds say.
func TestParseSeeds(t *testing.T) {
	fibonacci := Sources{
		Kind: KindDeployment, Namespace: "slimfaas-demo", Name: "fibonacci1",
		TemplateLabels: map[string]string{"app": "fibonacci1"},
		TemplateAnnotations: map[string]string{
			"SlimFaas/Function":        "true",
			"SlimFaas/ReplicasMin":     "0",
			"SlimFaas/ReplicasAtStart": "1",
			"SlimFaas/ReplicasStartAsSoonAsOneFunctionRetrieveARequest": "false",
			"SlimFaas/TimeoutSecondBeforeSetReplicasMin":                "300",
			"SlimFaas/NumberParallelRequest":                            "10",
		},
	}
	got, is, faults := Parse(fibonacci)
	want := Spec{
		Min: 1, Max: 20, AtStart: 1, Zero: true, ZeroAfter: 300 * time.Second,
		Type: Capacity, Proportion: 0.9, AsyncConcurrency: 10, Retry: slimRetry(),
	}
	if !is || len(faults) > 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("fibonacci1: %+v, %t, %v", got, is, faults)
	}

	pause := Sources{
		Kind: KindDeployment, Namespace: "openfaas-fn", Name: "pause",
		TemplateLabels: map[string]string{
			"faas_function":             "pause",
			"com.openfaas.scale.target": "4",
			"com.openfaas.scale.type":   "capacity",
			"com.openfaas.scale.min":    "1",
			"com.openfaas.scale.max":    "20",
		},
	}
	got, is, faults = Parse(pause)
	want = Spec{Min: 1, Max: 20, ZeroAfter: 15 * time.Minute, Type: Capacity, Target: 4, Proportion: 0.9, Retry: weirRetry()}
	if !is || len(faults) > 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("pause: %+v, %t, %v", got, is, faults)
	}
}

func TestParseMarks(t *testing.T) {
	for name, row := range map[string]struct {
		src    Sources
		marked bool
		after  time.Duration // tells the vocabularies apart, with typ
		typ    ScaleType
		faults int
	}{
		"nothing":                    {Sources{}, false, 0, "", 0},
		"weir as a template label":   {Sources{TemplateLabels: map[string]string{"weir/function": "true"}}, true, DefaultZeroAfter, Capacity, 0},
		"openfaas without a value":   {Sources{Labels: map[string]string{"faas_function": ""}}, true, DefaultZeroAfter, RPS, 0},
		"openfaas as an annotation":  {Sources{Annotations: map[string]string{"faas_function": "x"}}, true, DefaultZeroAfter, RPS, 0},
		"slimfaas in capitals":       {Sources{TemplateAnnotations: map[string]string{"SlimFaas/Function": "True"}}, true, SlimFaasZeroAfter, Capacity, 0},
		"slimfaas false":             {Sources{TemplateAnnotations: map[string]string{"SlimFaas/Function": "false"}}, false, 0, "", 0},
		"slimfaas nonsense":          {Sources{TemplateAnnotations: map[string]string{"SlimFaas/Function": "on"}}, false, 0, "", 1},
		"weir says no to openfaas":   {Sources{Annotations: map[string]string{"weir/function": "false"}, Labels: map[string]string{"faas_function": "x"}}, false, 0, "", 0},
		"weir over openfaas":         {Sources{TemplateLabels: map[string]string{"weir/function": "true"}, Labels: map[string]string{"faas_function": "x"}}, true, DefaultZeroAfter, Capacity, 0},
		"openfaas over slimfaas":     {Sources{TemplateAnnotations: map[string]string{"SlimFaas/Function": "true", "faas_function": ""}}, true, DefaultZeroAfter, RPS, 0},
		"a mark misspelled":          {Sources{Annotations: map[string]string{"weir/functon": "true"}}, false, 0, "", 1},
		"weir nonsense, so slimfaas": {Sources{Annotations: map[string]string{"weir/function": "oui", "SlimFaas/Function": "1"}}, true, SlimFaasZeroAfter, Capacity, 1},
	} {
		spec, is, faults := Parse(row.src)
		if is != row.marked || spec.ZeroAfter != row.after || spec.Type != row.typ || len(faults) != row.faults {
			t.Errorf("%s: marked %t, %+v, %v", name, is, spec, faults)
		}
	}
}

func TestParsePrecedence(t *testing.T) {
	src := Sources{
		Annotations:         map[string]string{"SlimFaas/ReplicasAtStart": "9", "com.openfaas.scale.max": "11"},
		Labels:              map[string]string{"weir/target": "3"},
		TemplateAnnotations: map[string]string{"weir/target": "4", "weir/min": "5", "weir/at-start": "7", "weir/function": "true"},
		TemplateLabels:      map[string]string{"weir/min": "6", "com.openfaas.scale.max": "12", "weir/max": "13", "weir/zero": "true"},
	}
	got, _, faults := Parse(src)
	want := Spec{
		Min: 5, Max: 13, AtStart: 7, Target: 3, Zero: true,
		Type: Capacity, Proportion: 0.9, ZeroAfter: DefaultZeroAfter, Retry: weirRetry(),
	}
	if len(faults) > 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, faults)
	}
	// Of min 0 and zero false the higher vocabulary has its way.
	for _, row := range []struct {
		min, zero string
		want      bool
	}{
		{"weir/min", "com.openfaas.scale.zero", true},
		{"SlimFaas/ReplicasMin", "com.openfaas.scale.zero", false},
	} {
		spec, _, faults := Parse(marked(weir, map[string]string{row.min: "0", row.zero: "false"}))
		if spec.Zero != row.want || spec.Min != 1 || len(faults) > 0 {
			t.Errorf("%s=0 with %s=false: %+v, %v", row.min, row.zero, spec, faults)
		}
	}
}

func TestParseFaults(t *testing.T) {
	for _, row := range []struct {
		by         vocabulary
		key, value string
		expected   string // part of it
	}{
		{weir, "weir/min", "-1", "from 0 to 10000"},
		{weir, "weir/min", "two", "from 0 to 10000"},
		{weir, "weir/min", "99999999999999999999", "from 0 to 10000"},
		{weir, "weir/max", "0", "from 1 to 10000"},
		{weir, "weir/max", "10001", "from 1 to 10000"},
		{weir, "weir/type", "latency", "capacity, rps, cpu, queue"},
		{openfaas, "com.openfaas.scale.type", "ram", "capacity, rps, cpu, queue"},
		{weir, "weir/target", "NaN", "more than 0"},
		{weir, "weir/target", "Inf", "more than 0"},
		{weir, "weir/target", "0", "more than 0"},
		{weir, "weir/target", "-4", "more than 0"},
		{weir, "weir/target", "1e9", "at most 1000000"},
		{weir, "weir/target", "0x10", "more than 0"},
		{weir, "weir/target", "500m", "more than 0"},
		{slimfaas, "SlimFaas/NumberParallelRequestPerPod", "0", "from 1"},
		{slimfaas, "SlimFaas/NumberParallelRequest", "0", "from 1"},
		{weir, "weir/target-proportion", "90", "0.01 to 1"},
		{weir, "weir/target-proportion", "0", "0.01 to 1"},
		{weir, "weir/target-proportion", "1.01", "0.01 to 1"},
		{weir, "weir/target-proportion", "nan", "0.01 to 1"},
		{weir, "weir/zero", "yes", "true or false"},
		{weir, "weir/zero-after", "0", "from 1s"},
		{weir, "weir/zero-after", "5 minutes", "a duration"},
		{weir, "weir/zero-after", "-5m", "from 1s"},
		{weir, "weir/zero-after", "10000h", "8760h"},
		{slimfaas, "SlimFaas/TimeoutSecondBeforeSetReplicasMin", "5m", "whole seconds"},
		{slimfaas, "SlimFaas/TimeoutSecondBeforeSetReplicasMin", "9223372036854775807", "whole seconds"},
		{weir, "weir/down-window", "2h", "at most 1h"},
		{weir, "weir/at-start", "21", "at most max, which is 20"},
		{weir, "weir/concurrency", "-1", "from 0"},
		{weir, "weir/retry-attempts", "0", "from 1 to 10000"},
		{openfaas, "com.openfaas.retry.attempts", "-1", "from 0 to 10000"},
		{openfaas, "com.openfaas.retry.attempts", "10001", "from 0 to 10000"},
		{weir, "weir/retry-codes", "429,5xx", "statuses from 300 to 599"},
		{weir, "weir/retry-codes", "429 503", "statuses from 300 to 599"},
		{weir, "weir/retry-codes", "200", "statuses from 300 to 599"},
		{openfaas, "com.openfaas.retry.codes", "600", "statuses from 300 to 599"},
		{openfaas, "com.openfaas.retry.codes", ",", "statuses from 300 to 599"},
		{weir, "weir/retry-min-wait", "-1s", "from 0 to 24h"},
		{openfaas, "com.openfaas.retry.min_wait", "soon", "a duration"},
		{weir, "weir/retry-max-wait", "25h", "from 0 to 24h"},
		{openfaas, "com.openfaas.retry.max_wait", "2562048h", "from 0 to 24h"},
		{weir, "weir/retry-jitter", "half", "full, equal, none, exponential"},
		{openfaas, "com.openfaas.retry.jitter", "true", "full, equal, none, exponential"},
		{weir, "weir/depends-on", "db,Not_A_Name", `"Not_A_Name" is not`},
		{weir, "weir/depends-on", `["a"`, "JSON list"},
		{weir, "weir/depends-on", manyNames(MaxDependsOn + 1), "at most 64"},
		{weir, "weir/schedule", "7:00", "JSON such as"},
		{weir, "weir/schedule", `{"Defaults":{}}`, "unknown field"},
		{weir, "weir/schedule", `{} {}`, "nothing after it"},
		{weir, "weir/schedule", `{"TimeZoneID":"Europe/Pariss"}`, "IANA"},
		{weir, "weir/schedule", `{"TimeZoneID":"Local"}`, "IANA"},
		{weir, "weir/schedule", `{"TimeZoneID":"../UTC"}`, "IANA"},
		{weir, "weir/schedule", `{"Default":{"WakeUp":["24:00"]}}`, "00:00 to 23:59"},
		{weir, "weir/schedule", `{"Default":{"WakeUp":["+7:00"]}}`, "00:00 to 23:59"},
		{weir, "weir/schedule", `{"Default":{"ScaleDownTimeout":[{"Time":"7","Value":1}]}}`, "00:00 to 23:59"},
		{weir, "weir/schedule", `{"Default":{"ScaleDownTimeout":[{"Time":"07:00","Value":-1}]}}`, "Value at 07:00"},
		{weir, "weir/schedule", `{"Default":{"WakeUp":[` + strings.Repeat(`"07:00",`, maxTimes) + `"07:00"]}}`, "at most 1440"},
		{weir, "weir/start-with-any", "maybe", "true or false"},
		{weir, "weir/port", "0", "from 1 to 65535"},
		{weir, "weir/metrics-port", "http", "from 1 to 65535"},
		{weir, "weir/mim", "1", "weir/function, weir/min, weir/max"},
		{weir, "weir/Min", "1", "weir/function, weir/min, weir/max"},
		{slimfaas, "SlimFaas/DefaultVisibility", "Private", "NetworkPolicy"},
	} {
		// at-start stands beside to show that the others are still read.
		annotations := map[string]string{row.key: row.value}
		if row.key != "weir/at-start" {
			annotations["weir/at-start"] = "5"
		}
		got, is, faults := Parse(marked(row.by, annotations))
		if !is || len(faults) != 1 {
			t.Errorf("%s=%q: marked %t, faults %v; want one", row.key, clip(row.value), is, faults)
			continue
		}
		f := faults[0]
		if f.Object != "Deployment shop/cart, annotation" || f.Key != row.key || f.Value != row.value || !strings.Contains(f.Expected, row.expected) {
			t.Errorf("%s=%q: fault %+v, want expected %q", row.key, clip(row.value), f, row.expected)
		}
		want, _, _ := Parse(marked(row.by, map[string]string{"weir/at-start": "5"}))
		if row.key == "weir/at-start" {
			want.AtStart = 0
		}
		got.DependsOn, got.DependsOnKey = nil, "" // what can be read of it is kept
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s=%q: got %+v, want the default in its place: %+v", row.key, clip(row.value), got, want)
		}
	}
}

func manyNames(n int) string {
	var names []string
	for i := range n {
		names = append(names, "f"+strings.Repeat("x", i))
	}
	// Names end at 63 characters; vary the first letter beyond.
	for i := range names {
		if len(names[i]) > 60 {
			names[i] = "g" + names[i][:i-55]
		}
	}
	return strings.Join(names, ",")
}

func TestParseContradictions(t *testing.T) {
	// The ceiling is kept.
	spec, _, faults := Parse(marked(openfaas, map[string]string{"weir/min": "8", "com.openfaas.scale.max": "3"}))
	if spec.Min != 1 || spec.Max != 3 || len(faults) != 1 || faults[0].Key != "weir/min" || !strings.Contains(faults[0].Expected, "at most com.openfaas.scale.max, which is 3") {
		t.Errorf("min over max: %+v, %v", spec, faults)
	}
	spec, _, faults = Parse(marked(weir, map[string]string{"weir/min": "0", "weir/zero": "false"}))
	if spec.Zero || spec.Min != 1 || len(faults) != 1 || faults[0].Key != "weir/min" {
		t.Errorf("min 0 with zero false: %+v, %v", spec, faults)
	}
	// A bad value is not made good by a lower one: the default is used.
	spec, _, faults = Parse(marked(weir, map[string]string{"weir/min": "many", "com.openfaas.scale.min": "4"}))
	if spec.Min != 1 || len(faults) != 1 {
		t.Errorf("a bad value over a good one: %+v, %v", spec, faults)
	}
	// A bad value of SlimFaas's is one fault though two settings read it.
	spec, _, faults = Parse(marked(slimfaas, map[string]string{"SlimFaas/NumberParallelRequestPerPod": "lots"}))
	if len(faults) != 1 || spec.Target != 0 || spec.Concurrency != 0 {
		t.Errorf("one key, two settings: %+v, %v", spec, faults)
	}
}

// Of two waits that were given the longest is kept; of one, that one.
func TestParseRetryWaits(t *testing.T) {
	for _, row := range []struct {
		by          vocabulary
		least, most string
		min, max    time.Duration
	}{
		{weir, "5m", "1m", 10 * time.Second, time.Minute},
		{weir, "5m", "3s", 3 * time.Second, 3 * time.Second},
		{slimfaas, "5m", "1m", 2 * time.Second, time.Minute},
		{slimfaas, "5m", "1s", time.Second, time.Second},
	} {
		spec, _, faults := Parse(marked(row.by, map[string]string{"weir/retry-min-wait": row.least, "com.openfaas.retry.max_wait": row.most}))
		if spec.Retry.MinWait != row.min || spec.Retry.MaxWait != row.max {
			t.Errorf("%s: %s to %s is %s to %s", row.by, row.least, row.most, spec.Retry.MinWait, spec.Retry.MaxWait)
		}
		if len(faults) != 1 || faults[0].Key != "weir/retry-min-wait" || !strings.Contains(faults[0].Expected, "at most com.openfaas.retry.max_wait, which is ") {
			t.Errorf("%s: %s to %s: %v", row.by, row.least, row.most, faults)
		}
	}
	spec, _, faults := Parse(marked(weir, map[string]string{"weir/retry-min-wait": "1m", "weir/retry-max-wait": "60"}))
	if len(faults) > 0 || spec.Retry.MinWait != time.Minute || spec.Retry.MaxWait != time.Minute {
		t.Errorf("the same twice: %+v, %v", spec.Retry, faults)
	}
}

func TestParseTargetFollowsType(t *testing.T) {
	spec, _, faults := Parse(marked(weir, map[string]string{"weir/type": "cpu", "weir/target": "250m"}))
	if len(faults) > 0 || spec.Target != 250 {
		t.Errorf("cpu: %+v, %v", spec, faults)
	}
	// Ten requests at once are not ten a second.
	spec, _, faults = Parse(marked(slimfaas, map[string]string{"weir/type": "rps", "SlimFaas/NumberParallelRequestPerPod": "10"}))
	if len(faults) > 0 || spec.Target != 0 || spec.Concurrency != 10 {
		t.Errorf("rps: %+v, %v", spec, faults)
	}
}

func TestTargetFor(t *testing.T) {
	for _, row := range []struct {
		spec Spec
		max  int
		want float64
	}{
		{Spec{Type: Capacity}, 0, 50},
		{Spec{Type: Capacity}, 5, 5},
		{Spec{Type: Capacity, Concurrency: 7}, 0, 7},
		{Spec{Type: Capacity, Target: 4}, 5, 4},
		{Spec{Type: Queue}, 5, 5},
		{Spec{Type: RPS}, 5, 50},
		{Spec{Type: CPU}, 5, 500},
		{Spec{Type: CPU, Target: 100}, 5, 100},
	} {
		if got := row.spec.TargetFor(row.max); got != row.want {
			t.Errorf("%+v with max_inflight %d: %g, want %g", row.spec, row.max, got, row.want)
		}
	}
}

// TestDefaults holds the constants against the table.
func TestDefaults(t *testing.T) {
	d := Defaults()
	slim, _, _ := Parse(marked(slimfaas, nil))
	if d.Max != DefaultMax || d.Proportion != DefaultProportion || d.ZeroAfter != DefaultZeroAfter || slim.ZeroAfter != SlimFaasZeroAfter {
		t.Errorf("%+v, SlimFaas %+v", d, slim)
	}
	if d.Retry.MinWait != DefaultRetryMinWait || d.Retry.MaxWait != DefaultRetryMaxWait ||
		slim.Retry.MinWait != SlimFaasRetryMinWait || slim.Retry.MaxWait != SlimFaasRetryMaxWait {
		t.Errorf("waits of %+v, SlimFaas %+v", d.Retry, slim.Retry)
	}
}

func TestFaultText(t *testing.T) {
	_, _, faults := Parse(Sources{
		Kind: KindStatefulSet, Namespace: "ns", Name: "db",
		TemplateLabels: map[string]string{"weir/function": "true", "weir/min": "x\ny" + strings.Repeat("z", 500)},
	})
	got := faults[0].String()
	want := `StatefulSet ns/db, template label: weir/min="x\nyzz`
	if !strings.HasPrefix(got, want) || len(got) > 400 || !strings.Contains(got, ": expected a whole number from 0 to 10000") {
		t.Errorf("got %s", got)
	}
}
