package process

import (
	"os/exec"
	"testing"
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
