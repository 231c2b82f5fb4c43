package jetstream

import (
	"fmt"
	"testing"
	"time"

	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/queue/queuetest"
)

func TestStoreInside(t *testing.T) {
	queuetest.TestStore(t, func(t *testing.T) queue.Store {
		return open(t, Config{Dir: t.TempDir(), Lease: 2 * time.Second, Window: 2 * time.Second})
	})
}

func TestStoreOutside(t *testing.T) {
	o, n := startOutside(t, ""), 0
	queuetest.TestStore(t, func(t *testing.T) queue.Store {
		n++
		return openAt(t, Config{URL: o.url, Name: fmt.Sprintf("weir-%d", n), Lease: 2 * time.Second, Window: 2 * time.Second, MaxBytes: 1 << 30, RecordBytes: 1 << 26, LetterBytes: 1 << 26})
	})
}
