package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the generated documents anew")

// clear takes every setting out of the environment for one test.
func clear(t *testing.T) {
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, prefix+"_") {
			t.Setenv(name, "") // so that it comes back
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestDefaults(t *testing.T) {
	clear(t)
	t.Setenv("WEIR_HOLD_TIMEOUT", "")      // empty is unset
	t.Setenv("LISTEN", "127.0.0.1:1")      // not ours
	t.Setenv("WEIR_PORT", "tcp://1.2.3.4") // a service link
	s, err := read()
	if err != nil {
		t.Fatal(err)
	}
	if s.Listen.val != ":8080" || s.HoldTimeout.val.String() != "2m0s" || s.HoldBytes.val != 256<<20 || s.Provider.val != "kubernetes" {
		t.Errorf("%+v", s)
	}
}

// All faults are told at once, with variable, value and expectation.
func TestFaults(t *testing.T) {
	clear(t)
	for name, value := range map[string]string{
		"WEIR_PROVIDER": "nomad", "WEIR_LISTEN": "8080", "WEIR_METRICS_LISTEN": "1.2.3.4:99999",
		"WEIR_HOLD_REQUESTS": "-1", "WEIR_HOLD_BYTES": "9e9", "WEIR_HOLD_TIMEOUT": "soon", "WEIR_LOG_LEVEL": "loud",
		"WEIR_LOG_FORMAT": "xml", "WEIR_BASIC_AUTH_PASSWORD_FILE": filepath.Join(t.TempDir(), "none"),
	} {
		t.Setenv(name, value)
	}
	_, err := read()
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{
		`WEIR_PROVIDER="nomad": expected one of kubernetes, local`,
		`WEIR_LISTEN="8080": expected host:port or :port, such as :8080`,
		`WEIR_METRICS_LISTEN="1.2.3.4:99999": expected host:port`,
		`WEIR_HOLD_REQUESTS="-1": expected a whole number from 0`,
		`WEIR_HOLD_BYTES="9e9": expected a number of bytes`,
		`WEIR_HOLD_TIMEOUT="soon": expected a duration`,
		`WEIR_LOG_LEVEL="loud": expected one of debug, info, warn, error`,
		`WEIR_LOG_FORMAT="xml": expected one of text, json`,
		`none": open `,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not told: %s\nin:\n%v", want, err)
		}
	}
}

func TestPasswordFile(t *testing.T) {
	clear(t)
	name := filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("WEIR_BASIC_AUTH_PASSWORD_FILE", name)
	write("s3cret \n")
	if s, err := read(); err != nil || s.BasicAuthPassword.val != "s3cret " {
		t.Errorf("%v %v", s.BasicAuthPassword.val, err)
	}
	for text, want := range map[string]string{"\n": "empty", strings.Repeat("x", 5000): "longer"} {
		write(text)
		if _, err := read(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "xxx") {
			t.Errorf("%.10q: %v", text, err)
		}
	}
	write("one")
	t.Setenv("WEIR_BASIC_AUTH_PASSWORD", "hunter2")
	if _, err := read(); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("both: %v", err)
	}
}

func TestUnknown(t *testing.T) {
	got := unknown([]string{
		"WEIR_LISTEN=:1", "WEIR_LISTNE=:1", "PATH=/", "WEIR_PORT=tcp://1.2.3.4:80", "WEIR_SERVICE_HOST=1", "WEIR_SERVICE_PORT_HTTP=80",
		"WEIR_PORT_80_TCP=x", "WEIR_PORT_80_TCP_ADDR=x", "WEIR_METRICS_PORT_8082_TCP_PROTO=tcp",
	})
	if !slices.Equal(got, []string{"WEIR_LISTNE"}) {
		t.Error(got)
	}
}

// TestDocs compares docs/CONFIG-WEIR.md with the tags; -update writes it.
func TestDocs(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Settings of weir

<!-- Generated from cmd/weir/settings.go: go test ./cmd/weir -run TestDocs -update -->

Settings are environment variables; empty is unset. A value that does not parse
ends the start with exit code 1, and the message names every such variable, its
value and what was expected. A variable that begins with ` + "`WEIR_`" + ` and is no
setting is named in a warning.

| variable | type | default | meaning |
|---|---|---|---|
`)
	fields := reflect.TypeFor[settings]()
	for i, name := range names() {
		f := fields.Field(i)
		def := "unset"
		if d := f.Tag.Get("default"); d != "" {
			def = "`" + d + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, f.Type.Name(), def, f.Tag.Get("desc"))
	}
	const page = "../../docs/CONFIG-WEIR.md"
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(page); err != nil || string(have) != b.String() {
		t.Errorf("%s is not what the settings say (%v): make docs", page, err)
	}
}
