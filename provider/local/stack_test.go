package local

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
)

var update = flag.Bool("update", false, "write the golden files anew")

const stacks = "../../testdata/stacks"

// golden compares text with what is checked in.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(stacks, name)
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("%s differs; -update writes it anew. Got:\n%s", path, text)
	}
}

// Every fault with its line, all at once.
func TestFaultsAreNamedWithTheirLines(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(stacks, "faulty.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = parseStack(text, "faulty.yaml", "default")
	if err == nil {
		t.Fatal("no fault")
	}
	golden(t, "faulty.txt", err.Error()+"\n")
}

func TestFullStack(t *testing.T) {
	s, err := readStack(filepath.Join(stacks, "full.yaml"), "default")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, d := range s.functions {
		fmt.Fprintf(&b, "%s: image %s, process %q, address %q, grace %s\n", d.ref, d.about.Image, d.about.EnvProcess, d.addr, d.grace)
		fmt.Fprintf(&b, "  %s %v min %d max %d target %g zero %t after %s\n", d.spec.Type, d.faults, d.spec.Min, d.spec.Max, d.spec.Target, d.spec.Zero, d.spec.ZeroAfter)
		if d.addr == "" {
			for _, entry := range environ([]string{"PATH=/bin", "HOME=/h", "LANG=C", "TZ=UTC", "USER=u", "WEIR_STACK=s"}, d.environment, sample, "/temp") {
				fmt.Fprintf(&b, "    %s\n", entry)
			}
		}
	}
	for _, note := range s.notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	golden(t, "full.txt", b.String())
}

func TestSampleStackIsRight(t *testing.T) {
	s, err := readStack("../../testdata/stack.yaml", "default")
	if err != nil {
		t.Fatal(err)
	}
	if len(s.notes) != 0 || len(s.functions) != 3 {
		t.Errorf("%d functions, notes %v", len(s.functions), s.notes)
	}
	for _, d := range s.functions {
		if len(d.faults) != 0 || !d.spec.Zero {
			t.Errorf("%s: %v, zero %t", d.ref, d.faults, d.spec.Zero)
		}
	}
}

// One without any label is weir's own, and goes by weir's defaults.
func TestDefaultsAreWeirs(t *testing.T) {
	s, err := parseStack([]byte("functions: {a: {fprocess: cat}}"), "f", "default")
	if err != nil {
		t.Fatal(err)
	}
	d := s.functions[0]
	want, _, _ := function.Parse(function.Sources{Labels: map[string]string{"weir/function": "true"}})
	if d.spec.Type != function.Capacity || d.spec.Zero || d.spec.Max != want.Max || d.spec.ZeroAfter != want.ZeroAfter {
		t.Errorf("%+v", d.spec)
	}
}

func TestBadFiles(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"empty":      {"", "f: empty"},
		"comment":    {"# nothing\n", "f: empty"},
		"null":       {"~", "f: no functions"},
		"no key":     {"version: 1.0\n", "f: no functions"},
		"list":       {"- a\n", "f:1: the file is a list"},
		"syntax":     {"functions:\n  a: [\n", "f:2: not YAML"},
		"tab":        {"functions:\n\ta: b\n", "f:2: not YAML"},
		"binary":     {"\x00\x01", "not YAML"},
		"second":     {"functions: {}\n---\nfunctions: {}\n", "f:2: a second document"},
		"too long":   {"functions: {}\n#" + strings.Repeat("x", stackBound), "f: longer than"},
		"own anchor": {"functions: &a\n  <<: *a\n", "f:2: "},
		"not name":   {"functions: {? {a: b} : c}", "f:1: functions: a name is a mapping"},
		"zero byte":  {"functions: {a: {fprocess: \"c\\0at\"}}", "zero byte"},
	} {
		_, err := parseStack([]byte(c.text), "f", "default")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, expected %s", name, err, c.want)
		}
	}
	if _, err := readStack(filepath.Join(t.TempDir(), "none.yaml"), "d"); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Error(err)
	}
	if _, err := readStack(t.TempDir(), "d"); err == nil {
		t.Error("a folder was read")
	}
}

// A text that is no YAML is faulty at one line, and that one is named: not where
// the mapping begins that the fault is in.
func TestSyntaxFaultsAreNamedWithTheirLines(t *testing.T) {
	for text, want := range map[string]string{
		"a: b: c\n": "f:1: not YAML: mapping values",
		"functions:\n  a:\n    fprocess: cat\n   b: x\n":                                 "f:4: not YAML: did not find expected key",
		"functions:\n  a:\n    fprocess: cat\n    environment:\n      A: 1\n     B: 2\n": "f:6: not YAML: did not find expected key",
		"functions:\n  a: {fprocess: cat}\n  b: {fprocess: cat,, }\n":                    "f:3: not YAML: did not find expected node",
		"functions:\n  a: {fprocess: cat}\n  b: {fprocess: cat\n  c: {}\n":               "f:3: not YAML: did not find expected ','", // where it opens
		"functions:\n  a:\n    fprocess: 'x\n  b: y\n":                                   "f:3: not YAML: found unexpected end",
		"functions:\n  a: *x\n":       "f:2: not YAML: unknown anchor 'x'",
		"functions:\n  a: \"\x01\"\n": "f:2: not YAML: control characters",
		"functions:\n  a: \xff\n":     "f:2: not YAML: invalid leading UTF-8",
		"functions:\n\ta: x\n":        "f:2: not YAML: found character that cannot start any token: a tab does not indent",
		"functions: {}\n---\na: b: c": "f:3: not YAML: mapping values",
		"a: 1\n- b\n":                 "f:2: not YAML: did not find expected key",
		"functions:\n" + strings.Repeat("  a:\n    fprocess: >\n      cat\n\n", 5000) + " b: x\n": "f:20002: not YAML: did not find expected key",
		// A line that is longer than what is read at once.
		"functions:\n  # " + strings.Repeat("x", 5000) + "\n   a: b: c\n": "f:3: not YAML: mapping values",
	} {
		if _, err := parseStack([]byte(text), "f", "default"); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.80q: %v, want %s", text, err, want)
		}
	}
}

// Aliases that stand for more than there is are counted, not followed.
func TestAliasesAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("x-a: &a\n")
	for i := range 5000 {
		fmt.Fprintf(&b, "  k%d: v\n", i)
	}
	b.WriteString("functions:\n")
	for i := range 900 {
		fmt.Fprintf(&b, "  f%d: {fprocess: cat, environment: *a}\n", i)
	}
	_, err := parseStack([]byte(b.String()), "f", "default")
	if err == nil || !strings.Contains(err.Error(), "values") {
		t.Errorf("%.300v", err)
	}
	if n := len(strings.Split(err.Error(), "\n")); n > 3 {
		t.Errorf("%d lines of faults", n)
	}

	bomb := "x0: &x0 {a: b}\n"
	for i := range 40 {
		bomb += fmt.Sprintf("x-%d: &x%d {<<: [*x%d, *x%d], k%d: v}\n", i+1, i+1, i, i, i)
	}
	bomb += "functions:\n  f: {fprocess: cat, environment: *x40}\n"
	if _, err := parseStack([]byte(bomb), "f", "default"); err == nil {
		t.Error("a merge of 2^40 was followed")
	}
}

func TestTooManyFunctions(t *testing.T) {
	var b strings.Builder
	b.WriteString("functions:\n")
	for i := range functionsBound + 1 {
		fmt.Fprintf(&b, "  f%d: {fprocess: cat}\n", i)
	}
	if _, err := parseStack([]byte(b.String()), "f", "default"); err == nil || !strings.Contains(err.Error(), "functions") {
		t.Error(err)
	}
}

func TestExpandPort(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "$": "$", "$$": "$$", "$PORT": "7", "${PORT}": "7", "${PORT": "${PORT", "$PORTS": "$PORTS", "$PORT_A": "$PORT_A",
		"a$PORT:b": "a7:b", "$PORT$PORT": "77", "$${PORT}": "$7", "$HOME/$PORT": "$HOME/7", "PORT": "PORT", "$port": "$port",
	} {
		if got := expandPort(text, 7); got != want {
			t.Errorf("%q became %q, expected %q", text, got, want)
		}
	}
}

func TestNextDelay(t *testing.T) {
	var got []time.Duration
	delay := time.Duration(0)
	for _, life := range []time.Duration{0, 0, time.Second, 59 * time.Second, 0, 0, 0, time.Minute, 0} {
		delay = nextDelay(delay, life)
		got = append(got, delay/time.Second)
	}
	if want := []time.Duration{1, 2, 4, 8, 16, 30, 30, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("%d, expected %d", got, want)
	}
}

func FuzzStack(f *testing.F) {
	for _, name := range []string{"full.yaml", "faulty.yaml", "../stack.yaml"} {
		text, err := os.ReadFile(filepath.Join(stacks, name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("functions: {a: {url: 'http://[::1]:80'}}"))
	f.Add([]byte("functions: &a\n  b: *a\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := parseStack(text, "f.yaml", "default")
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if line == "" {
					t.Errorf("an empty line in %q", err)
				}
			}
			return
		}
		names := map[function.Ref]bool{}
		for _, d := range s.functions {
			if _, err := function.ParseRef(d.ref.String(), "x"); err != nil || names[d.ref] {
				t.Errorf("name %v", d.ref)
			}
			names[d.ref] = true
			if d.spec.Min < 1 || d.spec.Max < d.spec.Min {
				t.Errorf("%+v", d.spec)
			}
			if d.addr == "" && d.grace <= 0 {
				t.Errorf("%s has the grace %v", d.ref, d.grace)
			}
			for _, entry := range environ(nil, d.environment, sample, "/temp") {
				if strings.ContainsRune(entry, 0) || strings.HasPrefix(entry, "=") {
					t.Errorf("environment %q", entry)
				}
			}
			for name := range maps.Keys(d.environment) {
				if name == "" || strings.Contains(name, "=") {
					t.Errorf("name %q", name)
				}
			}
		}
	})
}
