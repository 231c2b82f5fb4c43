package process

import (
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// The rival of Start is os/exec: same program, same descriptors.
func BenchmarkStart(b *testing.B) {
	env := []string{"PATH=/bin:/usr/bin"}
	r := NewReaper(false)
	defer r.Close()
	ours := func(b *testing.B) {
		c, err := r.Start(Spec{Path: "/bin/true", Env: env, KillGroupAtExit: true})
		if err != nil {
			b.Fatal(err)
		}
		<-c.Done()
	}
	theirs := func(b *testing.B) {
		cmd := exec.Command("/bin/true")
		cmd.Env = env
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
	}
	// In turns, so that whatever else the machine does meets both. The ratio is
	// of the medians; over 1 is faster than os/exec.
	b.Run("ratio", func(b *testing.B) {
		var took [2][]float64
		for b.Loop() {
			for i, run := range []func(*testing.B){theirs, ours} {
				begin := time.Now()
				run(b)
				took[i] = append(took[i], time.Since(begin).Seconds())
			}
		}
		for i := range took {
			slices.Sort(took[i])
		}
		b.ReportMetric(took[0][len(took[0])/2]/took[1][len(took[1])/2], "exec/process")
	})
	for name, run := range map[string]func(*testing.B){"process": ours, "exec": theirs} {
		b.Run(name+"/1", func(b *testing.B) {
			for b.Loop() {
				run(b)
			}
		})
		b.Run(name+"/32", func(b *testing.B) {
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					run(b)
				}
			})
		})
	}
}

// The line that a chatty handler costs.
func BenchmarkCopyLines(b *testing.B) {
	const line = "127.0.0.1 - - [21/Nov/2026 02:00:00] \"GET / HTTP/1.1\" 200 -\n"
	text := strings.Repeat(line, 1000)
	prefix := func(dst, line []byte) []byte {
		return append(append(append(dst, "stdout: "...), line...), '\n')
	}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if err := CopyLines(io.Discard, strings.NewReader(text), 65536, prefix); err != nil {
			b.Fatal(err)
		}
	}
}
