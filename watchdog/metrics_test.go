package watchdog

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const (
	beginMetrics = "<!-- metrics:begin -->"
	endMetrics   = "<!-- metrics:end -->"
)

// TestDocsOfMetrics rewrites the table of docs/FWATCHDOG.md from families with -update.
func TestDocsOfMetrics(t *testing.T) {
	var table strings.Builder
	table.WriteString("| name | type | labels | meaning |\n|---|---|---|---|\n")
	for _, f := range families {
		labels := strings.ReplaceAll(f.labels, ", ", "`, `")
		if labels != "" {
			labels = "`" + labels + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", f.name, f.kind, labels, f.help)
	}
	golden(t, filepath.Join("..", "docs", "FWATCHDOG.md"), func(page []byte) []byte {
		return between(t, page, beginMetrics, table.String(), endMetrics)
	})
}

func TestScrapeHoldsTheTable(t *testing.T) {
	s := startInproc(t, func(w http.ResponseWriter, r *http.Request) {}, "max_inflight=auto:8", "max_queue=1")
	get(t, s.url)
	_, page := get(t, s.metrics)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	found, err := parser.TextToMetricFamilies(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if got := found[f.name]; got == nil {
			t.Errorf("%s is not scraped", f.name)
		} else if kind := strings.ToLower(got.GetType().String()); kind != f.kind {
			t.Errorf("%s is a %s, the table says %s", f.name, kind, f.kind)
		}
	}
	for name := range found {
		if strings.HasPrefix(name, "http_") || strings.HasPrefix(name, "watchdog_") {
			if !slices.ContainsFunc(families, func(f family) bool { return f.name == name }) {
				t.Errorf("%s is not in the table", name)
			}
		}
	}
}

func TestMethodsOfClientsMakeNoSeries(t *testing.T) {
	m := newMetrics(gauges{})
	for i := range 1000 {
		m.answered(fmt.Sprintf("M%d", i), 200, time.Millisecond)
		m.answered("GET", 700+i%2, time.Millisecond)
	}
	if m.requests.DeleteLabelValues("200", "m1") {
		t.Error("a client's method became a label")
	}
	if !m.requests.DeleteLabelValues("200", "unknown") {
		t.Error("unknown methods are not counted")
	}
	if !m.requests.DeleteLabelValues("701", "get") {
		t.Error("a code out of the cached range is not counted")
	}
}

func TestCgroupCPU(t *testing.T) {
	for name, c := range map[string]struct {
		fs   fstest.MapFS
		want float64
		ok   bool
	}{
		"v2":               {fstest.MapFS{"cpu.stat": {Data: []byte("usage_usec 1500000\nuser_usec 1\n")}}, 1.5, true},
		"v1":               {fstest.MapFS{"cpuacct/cpuacct.usage": {Data: []byte("2500000000\n")}}, 2.5, true},
		"v1 joint":         {fstest.MapFS{"cpu,cpuacct/cpuacct.usage": {Data: []byte("1000000000")}}, 1, true},
		"v2 without usage": {fstest.MapFS{"cpu.stat": {Data: []byte("nr_periods 0\n")}}, 0, false},
		"garbage":          {fstest.MapFS{"cpu.stat": {Data: []byte("usage_usec lots\n")}}, 0, false},
		"v1 garbage":       {fstest.MapFS{"cpuacct/cpuacct.usage": {Data: []byte("\x00")}}, 0, false},
		"nothing":          {fstest.MapFS{}, 0, false},
	} {
		if got, ok := cgroupCPU(c.fs); got != c.want && c.ok || ok != c.ok {
			t.Errorf("%s: %v %v", name, got, ok)
		}
	}
}

func TestAppendSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 999: "999B", 1000: "1kB", 1234: "1.234kB", 1048576: "1.049MB", 1 << 40: "1.1TB"} {
		if got := string(appendSize(nil, n)); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
