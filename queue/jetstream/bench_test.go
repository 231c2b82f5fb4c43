package jetstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
)

// benchStore is on the disk that the folder for temporary files is on; a tmpfs
// says nothing about Sync.
func benchStore(b *testing.B, always bool) *Store {
	return open(b, Config{Dir: b.TempDir(), Sync: always, MaxLane: 1 << 40, MaxBytes: 1 << 40})
}

func names(n int) []queue.Lane {
	lanes := make([]queue.Lane, n)
	for i := range lanes {
		lanes[i] = queue.LaneOf(function.Ref{Namespace: "default", Name: fmt.Sprintf("function-%d", i)})
	}
	return lanes
}

// fill puts n items of 1 KiB with 64 at once.
func fill(b *testing.B, s *Store, n int, lanes ...queue.Lane) {
	data := make([]byte, 1<<10)
	var next atomic.Int64
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if _, _, err := s.Put(context.Background(), lanes[i%len(lanes)], data, ""); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
}

func BenchmarkPut(b *testing.B) {
	for _, always := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync=%v", always), func(b *testing.B) {
			s := benchStore(b, always)
			b.ResetTimer()
			fill(b, s, b.N, names(10)...)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
		})
	}
}

// BenchmarkPutAt1000 is how long a Put takes at 1,000 of them a second.
func BenchmarkPutAt1000(b *testing.B) {
	for _, always := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync=%v", always), func(b *testing.B) {
			s := benchStore(b, always)
			data := make([]byte, 1<<10)
			took := make([]time.Duration, b.N)
			var group sync.WaitGroup
			b.ResetTimer()
			began := time.Now()
			for i := range b.N {
				time.Sleep(time.Until(began.Add(time.Duration(i) * time.Millisecond)))
				group.Go(func() {
					due := began.Add(time.Duration(i) * time.Millisecond)
					if _, _, err := s.Put(context.Background(), lane, data, ""); err != nil {
						b.Error(err)
					}
					took[i] = time.Since(due)
				})
			}
			group.Wait()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
		})
	}
}

func BenchmarkFetchAck(b *testing.B) {
	for _, shape := range []struct{ lanes, workers, batch int }{{1, 1, 1}, {1, 8, 1}, {1, 8, 10}, {10, 10, 10}} {
		b.Run(fmt.Sprintf("lanes=%d/workers=%d/batch=%d", shape.lanes, shape.workers, shape.batch), func(b *testing.B) {
			s := benchStore(b, false)
			lanes := names(shape.lanes)
			fill(b, s, b.N, lanes...)
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			var group sync.WaitGroup
			for w := range shape.workers {
				group.Go(func() {
					for left.Load() > 0 {
						all, err := s.Fetch(context.Background(), lanes[w%len(lanes)], shape.batch, 100*time.Millisecond)
						if err != nil {
							b.Error(err)
							return
						}
						var acks sync.WaitGroup
						for _, d := range all {
							acks.Go(func() {
								if err := d.Ack(context.Background()); err != nil {
									b.Error(err)
								}
							})
						}
						acks.Wait()
						left.Add(-int64(len(all)))
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "items/s")
		})
	}
}

// BenchmarkMillion is what 1,000,000 queued calls of 1 KiB take; run it with
// -benchtime=1x.
func BenchmarkMillion(b *testing.B) {
	const items = 1_000_000
	for _, lanes := range []int{1, 1_000} {
		b.Run(fmt.Sprintf("lanes=%d", lanes), func(b *testing.B) {
			dir := b.TempDir()
			cfg := Config{Dir: dir, MaxLane: 1 << 40, MaxBytes: 1 << 40}
			s := open(b, cfg)
			all := names(lanes)
			var group sync.WaitGroup
			began := time.Now()
			fill(b, s, items, all...)
			b.ReportMetric(items/time.Since(began).Seconds(), "puts/s")
			report(b, "put")
			if _, err := s.Backlogs(b.Context()); err != nil { // as every second
				b.Fatal(err)
			}
			var answered atomic.Int64
			for range 100 {
				group.Go(func() {
					for range 10 {
						if _, err := s.Get(b.Context(), 1+rand.Uint64N(items)); err == nil {
							answered.Add(1)
						} else if !errors.Is(err, queue.ErrAway) {
							b.Error(err)
						}
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(answered.Load()), "gets-of-1000")
			report(b, "gets")
			began = time.Now()
			if got, err := s.Backlogs(b.Context()); err != nil || len(got) != lanes {
				b.Fatal(len(got), err)
			}
			b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/backlogs")
			began = time.Now()
			for w := range 16 {
				group.Go(func() {
					for i := w; i < max(lanes, 1000); i += 16 {
						got, err := s.Fetch(b.Context(), all[i%lanes], 5, time.Second)
						if err != nil || len(got) == 0 {
							b.Errorf("%d, %v", len(got), err)
							return
						}
						for _, d := range got {
							d.Ack(b.Context())
						}
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(time.Since(began).Milliseconds())/float64(max(lanes, 1000)), "ms/fetch+acks")
			report(b, "fetches")
			began = time.Now()
			if _, err := s.Backlogs(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/backlogs-consumers")
			s.Close()
			began = time.Now()
			s = open(b, cfg)
			b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/open")
		})
	}
}

// report is this process's memory now: resident, and live after a collection.
func report(b *testing.B, when string) {
	rss := resident(b)
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	debug.FreeOSMemory()
	b.Logf("%s: resident %d MiB, live heap %d MiB, resident after giving back %d MiB", when, rss>>20, m.HeapAlloc>>20, resident(b)>>20)
}

func resident(b *testing.B) int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Skip(err)
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return kib << 10
}
