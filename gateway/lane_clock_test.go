package gateway

import (
	"testing"
	"time"
)

// Whoever looks at a pod may have read the clock before another one did who
// looked first: with many callers on few cores that took weir down, by a shift
// of a negative amount.
func TestAClockThatWasReadBefore(t *testing.T) {
	now := time.Now()
	p := &place{bounded: true, full: true, base: 3}
	if got := p.ceiling(true, now); got != 4 {
		t.Fatalf("a pod with room again takes %d, want 4", got)
	}
	if got := p.ceiling(true, now.Add(-time.Second)); got != 4 {
		t.Errorf("a second before, it takes %d, want 4", got)
	}
	m := meter{n: 1, total: 5, at: now}
	if got := m.seconds(now.Add(-time.Second)); got != 5 {
		t.Errorf("an integral runs back to %v", got)
	}
}
