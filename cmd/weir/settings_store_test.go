package main

import (
	"net"
	"slices"
	"testing"

	"github.com/weir-run/weir/queue"
)

func TestStoreSettings(t *testing.T) {
	checkSettings(t, map[string]settingsCase{
		"none":                {"", ""},
		"embedded":            {"DATA_DIR=/d NATS_SYNC=always NATS_LISTEN=127.0.0.1:4222", ""},
		"external":            {"NATS_URL=nats://a:4222,tls://b:4222 NATS_USER=u NATS_PASSWORD=p NATS_REPLICAS=3", ""},
		"both":                {"DATA_DIR=/d NATS_URL=nats://a:4222", "WEIR_DATA_DIR and WEIR_NATS_URL are both set"},
		"a user for nobody":   {"DATA_DIR=/d NATS_USER=u", "WEIR_NATS_USER is set: it is for WEIR_NATS_URL"},
		"replicas of one":     {"NATS_REPLICAS=3 DATA_DIR=/d", "WEIR_NATS_REPLICAS is set: it is for WEIR_NATS_URL"},
		"even replicas":       {"NATS_URL=nats://a:4222 NATS_REPLICAS=2", `WEIR_NATS_REPLICAS="2": expected 1, 3 or 5`},
		"sync of others":      {"NATS_URL=nats://a:4222 NATS_SYNC=always", "it is the servers' own setting"},
		"no such sync":        {"DATA_DIR=/d NATS_SYNC=often", `WEIR_NATS_SYNC="often": expected one of interval, always`},
		"an open port":        {"DATA_DIR=/d NATS_LISTEN=:4222", `WEIR_NATS_LISTEN=":4222": expected an address of loopback`},
		"listen without":      {"NATS_LISTEN=127.0.0.1:4222", "which is not set"},
		"no URL":              {"NATS_URL=nats:4222", "WEIR_NATS_URL: expected nats://host:port"},
		"half a URL":          {"NATS_URL=nats://a:4222,b", "WEIR_NATS_URL: expected nats://host:port"},
		"half a certificate":  {"NATS_URL=tls://a:4222 NATS_CERT=/dev/null", "WEIR_NATS_CERT and WEIR_NATS_KEY: expected both or none"},
		"prefix of two words": {"DATA_DIR=/d NATS_PREFIX=a.b", `WEIR_NATS_PREFIX="a.b": expected a word`},
		"two passwords":       {"NATS_URL=nats://a:4222 NATS_PASSWORD=p NATS_PASSWORD_FILE=/none", "WEIR_NATS_PASSWORD and WEIR_NATS_PASSWORD_FILE are both set"},
		"no password":         {"NATS_URL=nats://a:4222 NATS_PASSWORD_FILE=/none", `WEIR_NATS_PASSWORD_FILE="/none": open`},
		"no credentials":      {"NATS_URL=nats://a:4222 NATS_CREDENTIALS=/none", `WEIR_NATS_CREDENTIALS="/none": open`},
		"no CA":               {"NATS_URL=tls://a:4222 NATS_CA=/none", `WEIR_NATS_CA="/none": open`},
		"a huge body":         {"ASYNC_MAX_BODY=1Gi", `WEIR_ASYNC_MAX_BODY="1Gi": expected 1 to 33554432 bytes`},
		"no store at all":     {"ASYNC_MAX_STORE=1", `WEIR_ASYNC_MAX_STORE="1": expected 67108864 to`},
		"no age":              {"ASYNC_MAX_AGE=0", `WEIR_ASYNC_MAX_AGE="0": expected at least 1s`},
		"no attempt":          {"CALLBACK_ATTEMPTS=0", `WEIR_CALLBACK_ATTEMPTS="0": expected at least 1`},
	})
}

// TestOwnHosts: weir is called by each address at which it listens.
func TestOwnHosts(t *testing.T) {
	var all []string
	local, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range local {
		all = append(all, a.(*net.IPNet).IP.String())
	}
	for listen, want := range map[string][]string{
		":8080": append(all, "localhost"), "0.0.0.0:8080": all, "[::]:8080": all, "127.0.0.2:8080": {"127.0.0.2", "localhost"},
	} {
		clear(t)
		t.Setenv("WEIR_PROVIDER", "local")
		t.Setenv("WEIR_STACK", "stack.yaml")
		t.Setenv("WEIR_LISTEN", listen)
		t.Setenv("WEIR_HOSTS", "gateway.example")
		s, err := read()
		if err != nil {
			t.Fatal(err)
		}
		own := (&weir{settings: s}).ownHosts()
		for _, host := range want {
			if !slices.Contains(own, net.JoinHostPort(host, "8080")) {
				t.Errorf("%s: %s is not weir's own: %v", listen, host, own)
			}
		}
		if !slices.Contains(own, "gateway.example") || slices.Contains(own, "203.0.113.1:8080") {
			t.Errorf("%s: %v", listen, own)
		}
		if err := queue.CheckOwn(own); err != nil {
			t.Error(err)
		}
	}
}

// TestNoResults: a size of 0 is none, and not the default.
func TestNoResults(t *testing.T) {
	for text, want := range map[string]int64{"": 64 << 10, "0": -1, "7": 7} {
		clear(t)
		t.Setenv("WEIR_PROVIDER", "local")
		t.Setenv("WEIR_STACK", "stack.yaml")
		t.Setenv("WEIR_ASYNC_RESULT_SIZE", text)
		s, err := read()
		if err != nil {
			t.Fatal(err)
		}
		if got := (&weir{settings: s}).queueConfig(nil).ResultSize; got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}
