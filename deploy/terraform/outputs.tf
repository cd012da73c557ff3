output "peers" {
  description = "Each peer's public and private address."
  value       = [for peer in aws_instance.peer : { public = peer.public_ip, private = peer.private_ip }]
}

output "own_peer" {
  description = "URL_PEERAS of a client of the first peer, from client_cidrs."
  value       = "${aws_instance.peer[0].public_ip}:${var.port}"
}

output "ring" {
  description = "Arguments of deploy/vms/ring, which upgrades and verifies what was made here."
  value = join(" ", concat(
    ["--user", "admin", "--port", tostring(var.port)],
    flatten([for locator in aws_instance.locator : ["--locator", "${locator.public_ip}=${locator.private_ip}"]]),
    [for peer in aws_instance.peer : "${peer.public_ip}=${peer.private_ip}"],
  ))
}
