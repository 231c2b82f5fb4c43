package kube

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

func TestNewChecks(t *testing.T) {
	good := Config{Namespace: "ns", Identity: "weir-0"}
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) {}, ""},
		{func(c *Config) { c.Namespace = "" }, "namespace"},
		{func(c *Config) { c.Identity = "" }, "name"},
		{func(c *Config) { c.Peers = "a in (" }, "selector"},
		{func(c *Config) { c.Namespaces = []string{"ok", "Not OK"} }, `"Not OK"`},
		{func(c *Config) { c.Namespaces = []string{""} }, "namespace"},
	} {
		cfg := good
		c.change(&cfg)
		_, err := New(cfg)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, expected an error with %q", cfg, err, c.want)
		}
	}
	for _, c := range []struct{ given, want []string }{
		{nil, []string{"ns"}},
		{[]string{"b", "a", "b"}, []string{"b", "a"}},
		{[]string{"a", "*"}, []string{everywhere}},
	} {
		cfg := good
		cfg.Namespaces = c.given
		p, err := New(cfg)
		if err != nil || !slices.Equal(p.scopes, c.want) {
			t.Errorf("namespaces %q are watched as %q, %v", c.given, p.scopes, err)
		}
	}
}

// A weir that has no access says so, once, and what it is asked for it cannot
// do; but it does not end.
func TestNoConfiguration(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	missing := filepath.Join(t.TempDir(), "missing")
	for kubeconfig, want := range map[string]string{"": "set WEIR_KUBECONFIG", missing: missing} {
		var log lines
		p, err := New(Config{Log: slog.New(slog.NewTextHandler(&log, nil)), Kubeconfig: kubeconfig, Namespace: "ns", Identity: "weir-0", Peers: "a=b"})
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx, fleet.New(fleet.Config{})) }()
		eventually(t, "a word on it", func() bool { return len(log.with("No access to Kubernetes", want)) > 0 })
		ref := function.Ref{Name: "f", Namespace: "ns"}
		for what, err := range map[string]error{
			"Wake": p.Wake(t.Context(), ref, 1), "Scale": p.Scale(t.Context(), ref, 1, ""), "Spare": p.Spare(t.Context(), ref, nil),
		} {
			if err == nil || !strings.Contains(err.Error(), function.ErrUnavailable.Error()) {
				t.Errorf("%s: %v, expected %v", what, err, function.ErrUnavailable)
			}
		}
		p.Event(ref, function.Event{Reason: "X", Message: "y"})
		if p.Leads() || len(p.Peers()) != 0 {
			t.Error("it leads, or has peers")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := len(log.with("level=WARN")); n != 1 {
			t.Errorf("%d warnings:\n%s", n, strings.Join(log.all(), "\n"))
		}
	}
}

func TestCut(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int
		want string
	}{{"short", 5, "short"}, {"longer", 5, "lo…"}, {"ééééé", 8, "éé…"}, {"", 3, ""}} {
		if got := cut(c.text, c.n); got != c.want || len(got) > c.n {
			t.Errorf("cut(%q, %d) = %q, expected %q", c.text, c.n, got, c.want)
		}
	}
}
