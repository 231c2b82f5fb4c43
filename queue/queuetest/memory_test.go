package queuetest_test

import (
	"testing"
	"time"

	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/queue/queuetest"
)

func TestMemory(t *testing.T) {
	queuetest.TestStore(t, func(t *testing.T) queue.Store {
		return queuetest.NewMemory(queuetest.Config{Lease: time.Second}).Store()
	})
}
