package autoscaler

import (
	"context"
	"hash/fnv"
	"io"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/weir-run/weir/fleet"
)

// The sample of SCALING: enough for 5 % error at 95 % confidence, whatever the
// number of pods.
const (
	sampleAll  = 3
	sampleMost = 16
	// sampleLife is how long the same pods are the sample: their counters are
	// exact only from one reading to the next.
	sampleLife = StableWindow
)

func sampleSize(pods int) int {
	if pods <= sampleAll {
		return pods
	}
	n := float64(pods)
	return min(sampleMost, int(math.Ceil(n*15.37/(n+14.37))))
}

// sample picks the pods to read: those that are older than the stable window
// first, each as likely as any other.
func sample(pods []*fleet.Pod, now time.Time) []*fleet.Pod {
	size := sampleSize(len(pods))
	if size == len(pods) {
		return pods
	}
	type ranked struct {
		pod   *fleet.Pod
		young bool
		rank  uint64
	}
	epoch := []byte(now.Truncate(sampleLife).Format(time.RFC3339))
	all := make([]ranked, len(pods))
	for i, p := range pods {
		h := fnv.New64a()
		_, _ = io.WriteString(h, p.About().UID)
		_, _ = h.Write(epoch)
		all[i] = ranked{p, now.Sub(p.About().Created) < StableWindow, h.Sum64()}
	}
	slices.SortFunc(all, func(a, b ranked) int {
		switch {
		case a.young != b.young && a.young:
			return 1
		case a.young != b.young:
			return -1
		case a.rank < b.rank:
			return -1
		}
		return 1
	})
	picked := make([]*fleet.Pod, size)
	for i := range picked {
		picked[i] = all[i].pod
	}
	return picked
}

// reading is one pod's counters, or why there are none.
type reading struct {
	pod *fleet.Pod
	now Counters
	err error
}

// readAtOnce bounds the pods of one function that are read at the same time.
const readAtOnce = 16

func (a *Autoscaler) read(ctx context.Context, pods []*fleet.Pod) []reading {
	readings := make([]reading, len(pods))
	if len(pods) == 1 {
		readings[0].pod = pods[0]
		readings[0].now, readings[0].err = a.cfg.Counter.Read(ctx, pods[0])
		return readings
	}
	var all sync.WaitGroup
	room := make(chan struct{}, readAtOnce)
	for i, p := range pods {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			readings[i].pod = p
			readings[i].now, readings[i].err = a.cfg.Counter.Read(ctx, p)
		})
	}
	all.Wait()
	return readings
}
