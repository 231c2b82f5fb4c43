package guard

import (
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// benchDescriptors are open in this process and in a handler's while a sample
// is taken.
const benchDescriptors = 10_000

// BenchmarkSample takes a sample of everything, on this machine as it is. CPU
// is what the whole process took, in user and kernel mode.
func BenchmarkSample(b *testing.B) {
	need(b, benchDescriptors+100)
	for range benchDescriptors {
		f, err := os.Open(os.DevNull)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { f.Close() })
	}
	child := start(b, benchDescriptors, 0)

	root := newMachine()
	bytes, inodes := newDisk(os.TempDir())
	handler := newHandlerFds(root, func() int { return child.pid })
	single := []struct {
		name   string
		source source
	}{
		{"memory", newMemory(root)}, {"pids", newPids(root)}, {"own", newOwnFds(root)},
		{"handler", handler}, {"bytes", bytes}, {"inodes", inodes},
	}
	b.Run("all", func(b *testing.B) {
		measure(b, func(dst []sample) (all []sample, err error) {
			for _, s := range single {
				if dst, err = s.source.read(dst); err != nil && err != errNothing {
					return dst, err
				}
			}
			return dst, nil
		})
	})
	for _, s := range single {
		b.Run(s.name, func(b *testing.B) { measure(b, s.source.read) })
	}
}

func measure(b *testing.B, read func([]sample) ([]sample, error)) {
	samples, err := read(nil)
	if err != nil && err != errNothing {
		b.Fatal(err)
	}
	b.ReportAllocs()
	before := cpu(b)
	for b.Loop() {
		samples, _ = read(samples[:0])
	}
	b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
