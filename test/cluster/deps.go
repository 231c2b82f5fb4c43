package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// needs are the programs that the node runs and the Debian package that each
// comes in. Debian starts no service of them here: the node runs its own.
var needs = []struct{ path, pkg string }{
	{"containerd", "containerd"},
	{"ctr", "containerd"},
	{"containerd-shim-runc-v2", "containerd"},
	{"runc", "runc"},
	{"/usr/lib/cni/ptp", "containernetworking-plugins"},
	{"/usr/lib/cni/host-local", "containernetworking-plugins"},
	{"nft", "nftables"},
	{"conntrack", "conntrack"},
	{"etcd", "etcd-server"},
	{"ip", "iproute2"},
	{"mount", "mount"},
	{"nsenter", "util-linux"},
}

// missing names the packages whose programs are not there.
func missing() []string {
	var pkgs []string
	for _, n := range needs {
		if _, err := exec.LookPath(n.path); err != nil && !slices.Contains(pkgs, n.pkg) {
			pkgs = append(pkgs, n.pkg)
		}
	}
	return pkgs
}

func depsCommand(ctx context.Context, args []string) error {
	if err := parse(flag.NewFlagSet("deps", flag.ContinueOnError), args); err != nil {
		return err
	}
	pkgs := missing()
	if len(pkgs) == 0 {
		fmt.Println("every package is there")
		return nil
	}
	list := strings.Join(pkgs, " ")
	fmt.Println("missing:", list)
	if os.Geteuid() != 0 {
		return fmt.Errorf("installing packages needs root: sudo apt-get install --no-install-recommends %s", list)
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("there is no apt-get on this machine: install what Debian calls %s another way", list)
	}
	if err := apt(ctx, "update", "-qq"); err != nil {
		return err
	}
	if err := apt(ctx, append([]string{"install", "-y", "-qq", "--no-install-recommends"}, pkgs...)...); err != nil {
		return err
	}
	if pkgs := missing(); len(pkgs) > 0 {
		return fmt.Errorf("apt-get installed the packages, and %s still has no program on PATH", strings.Join(pkgs, " "))
	}
	return nil
}

func apt(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
