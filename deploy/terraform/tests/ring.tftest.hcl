# `terraform test` in deploy/terraform: plans against a provider that is not there, so it needs no
# account and makes nothing.
mock_provider "aws" {}

variables {
  release_url    = "https://releases.example/vecino.tar.gz"
  release_sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
  client_cidrs   = ["203.0.113.0/24"]
  admin_cidrs    = ["198.51.100.7/32"]
}

run "four_peers_and_the_locator_on_the_first" {
  command = plan

  assert {
    condition     = length(aws_instance.peer) == 4 && length(aws_instance.locator) == 0
    error_message = "not four machines"
  }
  assert {
    condition     = [for peer in aws_instance.peer : peer.private_ip] == ["10.78.0.10", "10.78.0.11", "10.78.0.12", "10.78.0.13"]
    error_message = "other addresses than those the neighbours were told"
  }
  assert {
    condition     = strcontains(aws_instance.peer[3].user_data, "URL_PEERSU=\"10.78.0.10:80,10.78.0.11:80\"")
    error_message = "the ring is not closed"
  }
  assert {
    condition     = alltrue([for peer in aws_instance.peer : strcontains(peer.user_data, "URL_Request=\"10.78.0.10:51015\"")])
    error_message = "a peer does not know the locator"
  }
  assert {
    condition     = [for peer in aws_instance.peer : strcontains(peer.user_data, "etc/locator.env")] == [true, false, false, false]
    error_message = "the locator is not on the first peer's machine alone"
  }
}

run "only_what_is_needed_is_open" {
  command = plan

  assert {
    condition = toset([for rule in aws_vpc_security_group_ingress_rule.ssh : "${rule.from_port} ${rule.cidr_ipv4}"]) == toset(["22 198.51.100.7/32"])

    error_message = "ssh is open to others than the operators"
  }
  assert {
    condition     = [for rule in aws_vpc_security_group_ingress_rule.rest_from_clients : "${rule.from_port}-${rule.to_port} ${rule.cidr_ipv4}"] == ["80-80 203.0.113.0/24"]
    error_message = "REST is open to others than peers and clients"
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.locator_from_peers.cidr_ipv4 == null && aws_vpc_security_group_ingress_rule.locator_from_peers.to_port == 51015
    error_message = "the locator is open to others than peers"
  }
}

run "a_locator_of_its_own" {
  command = plan
  variables {
    locator_apart = true
    peers         = 2
  }

  assert {
    condition     = aws_instance.locator[0].private_ip == "10.78.0.9" && !strcontains(aws_instance.locator[0].user_data, "peer.env")
    error_message = "the locator's machine is not its own"
  }
  assert {
    condition     = strcontains(aws_instance.peer[0].user_data, "URL_PEERSU=\"10.78.0.11:80\"") && !strcontains(aws_instance.peer[0].user_data, "locator.env")
    error_message = "two peers are not each other's neighbours"
  }
}

run "wrong_values_are_refused" {
  command = plan
  variables {
    peers          = 1
    port           = 51015
    release_url    = "http://releases.example/vecino.tar.gz"
    release_sha256 = "abc"
    admin_cidrs    = ["0.0.0.0/0"]
    vpc_cidr       = "10.0.0.0/28"
    ssh_public_key = "-----BEGIN OPENSSH PRIVATE KEY-----"
  }
  expect_failures = [
    var.peers, var.port, var.release_url, var.release_sha256, var.admin_cidrs, var.vpc_cidr, var.ssh_public_key,
  ]
}
