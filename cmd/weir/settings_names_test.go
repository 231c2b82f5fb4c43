package main

import (
	"strings"
	"testing"
)

// A name that is none, and a bound by which nothing could wait, end the start
// with the variable, its value and what was expected.
func TestNamesAndBounds(t *testing.T) {
	checkSettings(t, map[string]settingsCase{
		"one namespace":          {"NAMESPACE=fn", ""},
		"namespaces":             {"NAMESPACE=fn,other", ""},
		"all namespaces":         {"NAMESPACE=*", ""},
		"local namespace":        {"NAMESPACE=fn PROVIDER=local STACK=s", ""},
		"upper case":             {"NAMESPACE=fn,Bad_NS", `WEIR_NAMESPACE="fn,Bad_NS": expected namespaces with commas`},
		"no namespace":           {"NAMESPACE=,", `WEIR_NAMESPACE=",": expected namespaces with commas`},
		"dotted namespace":       {"NAMESPACE=a.b", `WEIR_NAMESPACE="a.b": expected`},
		"local, all":             {"NAMESPACE=* PROVIDER=local STACK=s", `WEIR_NAMESPACE="*": expected one namespace`},
		"local, several":         {"NAMESPACE=a,b PROVIDER=local STACK=s", `WEIR_NAMESPACE="a,b": expected one namespace`},
		"release":                {"RELEASE=weir-2", ""},
		"release of upper case":  {"RELEASE=Weir", `WEIR_RELEASE="Weir": expected lower case letters`},
		"dotted release":         {"RELEASE=weir.two", `WEIR_RELEASE="weir.two": expected lower case letters`},
		"user":                   {"BASIC_AUTH_USER=a:b", `WEIR_BASIC_AUTH_USER="a:b": expected a name without ':'`},
		"allowed":                {"CALLBACK_ALLOW=localhost,10.1.2.0/24,::1,[::1],fd00::/8,svc.ns.svc.cluster.local.", ""},
		"allowed, no network":    {"CALLBACK_ALLOW=10.0.0.0/99", `WEIR_CALLBACK_ALLOW="10.0.0.0/99": callbacks allowed to "10.0.0.0/99": expected a host`},
		"allowed, no host":       {"CALLBACK_ALLOW=http://a", `WEIR_CALLBACK_ALLOW="http://a": callbacks allowed to "http://a": expected a host`},
		"allowed, half address":  {"CALLBACK_ALLOW=127.1", `WEIR_CALLBACK_ALLOW="127.1": callbacks allowed to "127.1": expected a host`},
		"hosts":                  {"HOSTS=weir,weir:8080,[::1]:80,10.0.0.1", ""},
		"hosts, a URL":           {"HOSTS=weir,http://weir", `WEIR_HOSTS="weir,http://weir": weir's own host "http://weir": expected HOST or HOST:PORT`},
		"hosts, no port":         {"HOSTS=weir:http", `WEIR_HOSTS="weir:http": weir's own host "weir:http": expected HOST or HOST:PORT`},
		"nothing waits":          {"HOLD_REQUESTS=0", `WEIR_HOLD_REQUESTS="0": expected at least 1`},
		"no bytes":               {"HOLD_BYTES=0", `WEIR_HOLD_BYTES="0": expected at least 1`},
		"no time":                {"HOLD_TIMEOUT=0", `WEIR_HOLD_TIMEOUT="0": expected at least 1ms`},
		"a bound that is no one": {"HOLD_TIMEOUT=soon", `WEIR_HOLD_TIMEOUT="soon": expected a duration`},
	})
}

// settingsCase is an environment, and what is said of it.
type settingsCase struct {
	env  string // NAME=value without WEIR_, with spaces
	want string // of the one fault, empty where there is none
}

func checkSettings(t *testing.T, cases map[string]settingsCase) {
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			clear(t)
			for entry := range strings.FieldsSeq(c.env) {
				name, value, _ := strings.Cut(entry, "=")
				t.Setenv("WEIR_"+name, value)
			}
			_, err := read()
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %s", err, c.want)
			}
			if err != nil && strings.Count(err.Error(), "\n") > 0 {
				t.Errorf("told twice: %v", err)
			}
		})
	}
}
