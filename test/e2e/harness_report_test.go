package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// measured is the table at the end of the run.
var measured table

type table struct {
	mu   sync.Mutex
	rows [][3]string
}

// add notes what was measured, and the bound it is held against, if any.
func (m *table) add(what, value, bound string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows = append(m.rows, [3]string{what, value, bound})
}

func (m *table) print() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.rows) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("| measured | value | bound |\n|---|---|---|\n")
	for _, r := range m.rows {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r[0], r[1], r[2])
	}
	fmt.Print("\n", b.String(), "\n")
	if path := os.Getenv(envReport); path != "" {
		return os.WriteFile(path, []byte(b.String()), 0o644)
	}
	return nil
}

// ms is a duration as the table shows it.
func ms(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
}

// quantile of a list; q 0.5 is the median.
func quantile(of []time.Duration, q float64) time.Duration {
	if len(of) == 0 {
		return 0
	}
	of = slices.Sorted(slices.Values(of))
	return of[min(len(of)-1, int(q*float64(len(of))))]
}
