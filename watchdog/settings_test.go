package watchdog

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/kelseyhightower/envconfig"
)

var update = flag.Bool("update", false, "rewrite the generated documentation")

// TestSettingsMatchValues keeps table and struct from drifting: each field
// belongs to exactly one row, and envconfig reads it under that row's name.
func TestSettingsMatchValues(t *testing.T) {
	v := new(values)
	s := reflect.ValueOf(v).Elem()
	if s.NumField() != len(settings) {
		t.Errorf("%d fields, %d rows", s.NumField(), len(settings))
	}
	rows := make(map[any]string)
	seen := make(map[string]bool)
	for i := range settings {
		row := &settings[i]
		rows[row.field(v)] = upper(row.names[0])
		for _, name := range row.names {
			if seen[name] || name != strings.ToLower(name) {
				t.Errorf("name %q is there twice or not in lower case", name)
			}
			seen[name] = true
		}
		for _, def := range []string{row.defaultFor(ModeStreaming), row.defaultFor(ModeClassic)} {
			f := row.field(new(values))
			if _ = f.Set(def); f.wanted() != "" {
				t.Errorf("default %q of %s: expected %s", def, row.names[0], f.wanted())
			}
		}
		if row.meaning == "" || (row.def != "" && row.derived != "") {
			t.Errorf("%s: no meaning, or two defaults", row.names[0])
		}
	}
	for i := range s.NumField() {
		field := s.Field(i).Addr().Interface()
		key, ok := rows[field]
		if !ok {
			t.Errorf("field %s has no row", s.Type().Field(i).Name)
			continue
		}
		probe := reflect.New(s.Type())
		t.Setenv(key, "no such value \" ' \\")
		if err := envconfig.Process(prefix, probe.Interface()); err != nil {
			t.Fatal(err)
		}
		f := probe.Elem().Field(i).Addr().Interface().(interface {
			wanted() string
			wasGiven() bool
		})
		if f.wanted() == "" && !f.wasGiven() {
			t.Errorf("envconfig does not read %s from %s", s.Type().Field(i).Name, key)
		}
		if err := os.Unsetenv(key); err != nil {
			t.Fatal(err)
		}
	}
}

func (p *parsed[T]) wasGiven() bool { return p.given }

const (
	beginTable = "<!-- settings:begin -->"
	endTable   = "<!-- settings:end -->"
)

// TestDocs compares the documentation with the table; -update writes it.
func TestDocs(t *testing.T) {
	golden(t, filepath.Join("..", "docs", "CONFIG.md"), func([]byte) []byte { return []byte(configPage()) })
	golden(t, filepath.Join("..", "docs", "FWATCHDOG.md"), func(page []byte) []byte {
		return between(t, page, beginTable, readmeTable(), endTable)
	})
}

// between puts text between two lines of page.
func between(t *testing.T, page []byte, begin, text, end string) []byte {
	t.Helper()
	before, rest, ok := bytes.Cut(page, []byte(begin))
	_, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		t.Fatalf("no %s … %s", begin, end)
	}
	return slices.Concat(before, []byte(begin+"\n"+text+end), after)
}

func golden(t *testing.T, path string, want func(have []byte) []byte) {
	t.Helper()
	have, err := os.ReadFile(path)
	if err != nil && !*update {
		t.Fatal(err)
	}
	w := want(have)
	if bytes.Equal(have, w) {
		return
	}
	if !*update {
		t.Fatalf("%s is not what the code says; make docs writes it", path)
	}
	if err := os.WriteFile(path, w, 0o644); err != nil {
		t.Fatal(err)
	}
}

func (s *setting) nameCell() string {
	names := make([]string, len(s.names))
	for i, n := range s.names {
		names[i] = "`" + n + "`"
	}
	return strings.Join(names, ", ")
}

func (s *setting) defaultCell() string {
	switch {
	case s.derived != "":
		return s.derived
	case s.classic != nil:
		return fmt.Sprintf("%s; classic: %s", code(s.def), code(*s.classic))
	}
	return code(s.def)
}

func code(s string) string {
	if s == "" {
		return "unset"
	}
	return "`" + s + "`"
}

func (s *setting) modesCell() string {
	if s.modes == "" {
		return "all"
	}
	return s.modes
}

func readmeTable() string {
	var b strings.Builder
	b.WriteString("| name | default | meaning |\n|---|---|---|\n")
	for i := range settings {
		s := &settings[i]
		fmt.Fprintf(&b, "| %s | %s | %s |\n", s.nameCell(), s.defaultCell(), s.meaning)
	}
	return b.String()
}

func configPage() string {
	var b strings.Builder
	b.WriteString(`# Settings of fwatchdog

<!-- Generated from watchdog/settings.go: go test ./watchdog -run TestDocs -update -->

Settings are environment variables. Each has the lower-case name of the table,
exactly as written, and the alternative spelling ` + "`WATCHDOG_<NAME>`" + ` in capitals,
which wins. Of two lower-case names the first wins; of two names of a bool it is
enough that one says true. Empty is unset. Other variables are the handler's: it
inherits the whole environment unchanged.

A value that does not parse, or that does not go with another, ends the start
with exit code 1. The message names every such variable, its value and what was
expected, one a line.

| name | type | default | modes | meaning |
|---|---|---|---|---|
`)
	for i := range settings {
		s := &settings[i]
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", s.nameCell(), s.field(new(values)).kind(), s.defaultCell(), s.modesCell(), s.meaning)
	}
	b.WriteString(`
## Types

- **bool**: ` + "`true`, `false`, `1`, `0`, `t`, `f`, `T`, `F`, `TRUE`, `FALSE`, `True`, `False`" + `.
- **duration**: a whole number is seconds; else a number with a unit, or several
  (` + "`500ms`, `1m30s`" + `). Not negative.
- **bytes**: a whole number, alone or with ` + "`Ki`, `Mi`, `Gi`, `Ti` (powers of 1024), `k`, `M`, `G`, `T`" + `
  (powers of 1000).
- **mark**: a share of the limit (` + "`90%`, `87.5%`" + `), a number as of bytes
  (` + "`200Mi`, `900`" + `), or ` + "`off`" + `.
- **command**: words as a POSIX shell splits them; quotes and backslash work,
  variables, globs and operators do not. For those: ` + "`sh -c '…'`" + `.

## fwatchdog-classic

Starts in mode classic, as classic-watchdog does. Its images may use a variable
called ` + "`mode`" + ` for themselves, so only ` + "`WATCHDOG_MODE`" + ` changes it. The defaults of
classic mode are those of the table wherever that mode was chosen.

## Not settings, but read

| name | meaning |
|---|---|
| ` + "`OPENFAAS_NAME`, `OPENFAAS_NAMESPACE`" + ` | What a token must be for, with ` + "`jwt_auth`" + `. Without the second the namespace is read from ` + "`" + namespaceFile + "`" + `. |

` + "`WATCHDOG_PORT` and `WATCHDOG_METRICS_PORT`" + ` that begin with ` + "`tcp://`, `udp://` or `sctp://`" + `
are not settings either: Kubernetes gives them to every pod beside a Service
called watchdog or watchdog-metrics. They are ignored.
`)
	return b.String()
}
